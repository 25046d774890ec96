# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Semantic IDs as a model writes them when nothing holds it to the catalog, and what becomes of invalid ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..checks import check_integer
from ..semantic_ids import SemanticIdCatalog
from .beam_search import constrained_beam_search
from .prefix_table import PrefixTable
from .retrieval import open_search


__all__ = ["UnconstrainedResult", "retrieve_unconstrained"]


@dataclass
class UnconstrainedResult:
    """
    Result of [`retrieve_unconstrained`].

    Args:
        semantic_ids (`list[list[str]]`):
            What was generated for each history, best first, as text.
        scores (`list[list[float]]`):
            Log-probability of each.
        valid (`list[list[bool]]`):
            Whether each names an item.
        item_ids (`list[list[str]]` or `list[list[int]]`):
            Items of each history, best first: those that valid semantic IDs name and, with `fallback="prefix"`, one in
            place of each invalid one.
    """

    semantic_ids: list[list[str]]
    scores: list[list[float]]
    valid: list[list[bool]]
    item_ids: list[list[str]] | list[list[int]]


def retrieve_unconstrained(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    histories: Sequence[Sequence[str]] | Sequence[Sequence[int]],
    num_beams: int = 10,
    fallback: str | None = None,
    batch_size: int = 64,
    user_ids: Sequence[str | int] | None = None,
    max_history: int | None = None,
    prefix_table: PrefixTable | None = None,
    show_progress: bool = False,
) -> UnconstrainedResult:
    """
    Beam search over all combinations of codes, whether they name an item or not (TIGER's section 4.5).

    To measure how often a model leaves the catalog, with [`~forge_hf.evaluation.invalid_rate`]. To recommend, use
    [`retrieve`], whose semantic IDs are all valid.

    Args:
        model, tokenizer, catalog, histories, batch_size, user_ids, max_history, prefix_table, show_progress:
            As in [`retrieve`]. Items of the history aren't left out.
        num_beams (`int`, *optional*, defaults to 10):
            Width of the beam search: number of semantic IDs that are generated for each history.
        fallback (`str`, *optional*):
            What becomes of an invalid semantic ID in `item_ids`. By default nothing: the list is so much shorter. With
            `"prefix"`, the first item, in the catalog's order, that shares the longest prefix with it that any item
            has, and isn't in the list otherwise.

    Returns:
        [`UnconstrainedResult`]

    Raises:
        `ValueError`: `fallback` isn't one of these, or an argument is out of range.
        [`FingerprintMismatchError`], [`InvalidSequencesError`], [`UnknownItemError`]: As [`retrieve`].

    Example:

    ```python
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf import SemanticIdCatalog, SemanticIdTokenizer
    >>> from forge_hf.generation import retrieve_unconstrained

    >>> codes = [[1, 2], [0, 3], [1, 0]]
    >>> catalog = SemanticIdCatalog.from_codes(["shirt", "shoe", "sock"], codes, codebook_sizes=[4, 4])
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> config = Qwen2Config(
    ...     vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2, semantic_id_fingerprint=catalog.fingerprint,
    ... )
    >>> result = retrieve_unconstrained(Qwen2ForCausalLM(config), tokenizer, catalog, [["shoe"]], num_beams=16)
    >>> sum(result.valid[0])  # of all 16 combinations of codes
    3

    ```
    """
    if fallback not in (None, "prefix"):
        raise ValueError(f'`fallback` must be `None` or "prefix", got {fallback!r}.')
    check_integer("num_beams", num_beams)
    search = open_search(model, tokenizer, catalog, histories, user_ids, max_history, prefix_table)
    token_ids = search.token_ids
    every_code = _EveryCode(catalog.layout.codebook_sizes, token_ids.to(model.device))
    num_beams = min(num_beams, every_code.num_leaves)

    def generate(batch, input_ids, attention_mask):
        output = constrained_beam_search(model, input_ids, attention_mask, every_code, num_beams)
        return output.leaves.cpu(), output.scores.cpu()

    order, parts = search.map(generate, torch.arange(len(histories)), batch_size, show_progress)
    leaves = torch.empty(len(histories), num_beams, dtype=torch.int64)
    scores = torch.empty(len(histories), num_beams)
    for places, part in zip(order, parts, strict=True):
        leaves[places], scores[places] = part

    codes = every_code.leaf_codes(leaves.flatten())
    nodes = _prefix_nodes(search.table, token_ids[catalog.layout.to_index(codes)])
    valid = (nodes[:, -1] >= 0).view(-1, num_beams)
    texts = catalog.layout.to_text(codes) if len(codes) else []
    lists = _lists(catalog, search.table, token_ids, nodes.unflatten(0, (len(histories), num_beams)), fallback)
    return UnconstrainedResult(
        semantic_ids=[texts[start : start + num_beams] for start in range(0, len(texts), num_beams)],
        scores=scores.tolist(),
        valid=valid.tolist(),
        item_ids=[catalog.item_ids_at(rows) for rows in lists],
    )


def _prefix_nodes(table: PrefixTable, tokens: torch.Tensor) -> torch.Tensor:
    """The node of each prefix, from 1 code to all, of shape `(num, num_levels)`; -1 where no item has it."""
    tokens = tokens.to(table.device)
    return torch.stack([table.lookup(tokens[:, : level + 1]) for level in range(table.num_levels)], dim=-1).cpu()


def _lists(
    catalog: SemanticIdCatalog,
    table: PrefixTable,
    token_ids: torch.Tensor,
    nodes: torch.Tensor,
    fallback: str | None,
) -> list[list[int]]:
    """
    Rows of the catalog for what was generated, given by the `nodes` of its prefixes, of shape
    `(num_histories, num_beams, num_levels)`.
    """
    node_of_item = _prefix_nodes(table, token_ids[catalog.layout.to_index(catalog.codes)])
    # The items of a node, in the catalog's order: a slice of `order`, from one of `starts` to the next.
    order = node_of_item.argsort(dim=0, stable=True)
    starts = [torch.bincount(column).cumsum(0).tolist() for column in node_of_item.unbind(-1)]

    def items(level: int, node: int) -> torch.Tensor:
        return order[starts[level][node - 1] if node else 0 : starts[level][node], level]

    lists = []
    last = table.num_levels - 1
    for generated in nodes.tolist():
        named = [items(last, path[last]).tolist() if path[last] >= 0 else None for path in generated]
        listed = {row for rows in named if rows is not None for row in rows}
        for place, path in enumerate(generated):
            if named[place] is not None:
                continue
            depth = sum(node >= 0 for node in path)
            shared = items(depth - 1, path[depth - 1]).tolist() if fallback and depth else []
            named[place] = [row for row in shared if row not in listed][:1]
            listed.update(named[place])
        lists.append([row for rows in named for row in rows])
    return lists


class _EveryCode:
    """
    What a beam search asks of a [`PrefixTable`], for all combinations of codes, none of which is stored.

    A node is numbered by the codes of its prefix, as digits of a number: `node * codebook_size + code` is its child.
    """

    def __init__(self, codebook_sizes: Sequence[int], token_ids: torch.Tensor):
        self.codebook_sizes = tuple(codebook_sizes)
        self.num_levels = len(self.codebook_sizes)
        self.num_leaves = math.prod(self.codebook_sizes)
        if self.num_leaves > 2**62:
            raise ValueError(f"Codebooks of {self.codebook_sizes} codes have more combinations than can be numbered.")
        self.device = token_ids.device
        self._tokens = token_ids.split(self.codebook_sizes)

    def num_nodes(self, depth: int) -> int:
        return math.prod(self.codebook_sizes[:depth])

    def level_tokens(self, depth: int) -> torch.Tensor:
        return self._tokens[depth]

    def child_range(self, depth: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size, alive = self.codebook_sizes[depth], nodes >= 0
        first = nodes.clamp(min=0) * size
        return first, first + size * alive

    def last_tokens(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        return self._tokens[depth - 1][nodes % self.codebook_sizes[depth - 1]]

    def leaf_codes(self, leaves: torch.Tensor) -> torch.Tensor:
        node, codes = leaves, []
        for size in reversed(self.codebook_sizes):
            codes.append(node % size)
            node = node // size
        return torch.where((leaves >= 0).unsqueeze(-1), torch.stack(codes[::-1], dim=-1), -1)

    def leaf_tokens(self, leaves: torch.Tensor) -> torch.Tensor:
        codes = self.leaf_codes(leaves)
        tokens = [tokens[code.clamp(min=0)] for tokens, code in zip(self._tokens, codes.unbind(-1), strict=True)]
        return torch.where(codes >= 0, torch.stack(tokens, dim=-1), -1)
