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
from .beam_search import search_tree
from .prefix_table import PrefixTable
from .retrieval import open_search


__all__ = ["UnconstrainedResult", "retrieve_unconstrained"]

# Continuations that are scored at once: a beam has those of a whole codebook.
CONTINUATIONS = 1 << 22


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
    num_beams = min(int(num_beams), every_code.num_leaves)
    check_integer("batch_size", batch_size)
    at_once = max(1, CONTINUATIONS // (num_beams * max(catalog.layout.codebook_sizes)))

    def generate(batch, input_ids, attention_mask):
        output = search_tree(model, input_ids, attention_mask, every_code, num_beams)
        return output.leaves.cpu(), output.scores.cpu()

    order, parts = search.map(generate, torch.arange(len(histories)), min(batch_size, at_once), show_progress)
    leaves = torch.empty(len(histories), num_beams, dtype=torch.int64)
    scores = torch.empty(len(histories), num_beams)
    for places, part in zip(order, parts, strict=True):
        leaves[places], scores[places] = part

    codes = every_code.leaf_codes(leaves.flatten())
    nodes = _prefix_nodes(search.table, token_ids[catalog.layout.to_index(codes)])
    valid = (nodes[:, -1] >= 0).view(-1, num_beams)
    texts = catalog.layout.to_text(codes) if len(codes) else []
    lists = _lists(search.table, nodes.unflatten(0, (len(histories), num_beams)), fallback)
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


def _lists(table: PrefixTable, nodes: torch.Tensor, fallback: str | None) -> list[list[int]]:
    """
    Rows of the catalog for what was generated, given by the `nodes` of its prefixes, of shape
    `(num_histories, num_beams, num_levels)`.
    """
    leaves = nodes[..., -1]
    rows, counts = table.items(leaves.flatten().to(table.device))
    named = iter(rows.cpu().split(counts.tolist()))
    lists = []
    for generated in nodes.tolist():
        found = [next(named).tolist() for _ in generated]
        listed = {row for rows in found for row in rows}
        for place, path in enumerate(generated):
            depth = sum(node >= 0 for node in path)
            if fallback is None or not 0 < depth < table.num_levels:
                continue
            shared = _items_below(table, depth, path[depth - 1])
            found[place] = [row for row in shared.tolist() if row not in listed][:1]
            listed.update(found[place])
        lists.append([row for rows in found for row in rows])
    return lists


def _items_below(table: PrefixTable, depth: int, node: int) -> torch.Tensor:
    """Rows of all items with a prefix, in the catalog's order."""
    first = last = torch.tensor([node], device=table.device)
    for level in range(depth, table.num_levels):
        first, last = table.child_range(level, first)[0], table.child_range(level, last)[1] - 1
    return table.items(torch.arange(int(first), int(last) + 1, device=table.device))[0].sort().values


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
