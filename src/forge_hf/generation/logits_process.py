# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A logits processor that lets `model.generate` produce semantic IDs of a catalog and nothing else."""

import torch
from transformers import LogitsProcessor

from ..checks import check_integer, check_type
from .prefix_table import PrefixTable


__all__ = ["SemanticIdLogitsProcessor"]


class SemanticIdLogitsProcessor(LogitsProcessor):
    """
    Keeps the scores of the codes that continue a semantic ID of the catalog and sets all others to -inf.

    Equal to transformers' `PrefixConstrainedLogitsProcessor` over a trie of the catalog, but vectorised over rows and
    stateless: the prefix of every row is looked up anew, so beams may be reordered freely.

    It never falls open. A row whose tokens don't begin a semantic ID has no legal continuation: all its scores become
    -inf and stay so. If no row of a call has one, the call is an error, as in transformers. Over a catalog with fewer
    semantic IDs than beams, transformers' beam search returns rows that don't exist, repeated or incomplete, with
    `sequences_scores` of -1e9 and below: drop those; [`constrained_beam_search`] has none.
    `renormalize_logits=True` normalises over the legal codes, as `generate` does for any processor; don't combine it
    with processors that forbid codes, because a row of only -inf has no normaliser.

    Args:
        table ([`PrefixTable`]):
            The catalog's semantic IDs, on the device of the scores.
        prompt_length (`int`):
            Number of tokens of `input_ids` before the first code: 1 for an encoder-decoder model (the decoder's start
            token), the padded width of the prompts, which are padded on the left, for a decoder-only one.
        eos_token_id (`int`, *optional*):
            The only token allowed after a complete semantic ID. Without it a semantic ID can't be continued: generate
            with `max_new_tokens=table.num_levels`.
        inplace (`bool`, *optional*, defaults to `False`):
            Whether to write into the scores that are given, which is several times faster for many rows. Beam search
            computes them anew in every step, and never looks at them again; greedy search and sampling return them,
            if asked to `output_logits`.

    Raises:
        `ValueError`: `prompt_length` is negative or longer than the input; or, when called, no row has a legal
            continuation.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.generation import PrefixTable, SemanticIdLogitsProcessor

    >>> table = PrefixTable(torch.tensor([[0, 1], [2, 0]]), codebook_sizes=[3, 2])
    >>> processor = SemanticIdLogitsProcessor(table, prompt_length=1)
    >>> processor(torch.tensor([[7, 0], [7, 1]]), torch.zeros(2, 5))  # (0,) goes on with token 4; (1,) begins nothing
    tensor([[-inf, -inf, -inf, -inf, 0.],
            [-inf, -inf, -inf, -inf, -inf]])

    ```
    """

    def __init__(self, table: PrefixTable, prompt_length: int, eos_token_id: int | None = None, inplace: bool = False):
        check_type("table", table, PrefixTable)
        check_integer("prompt_length", prompt_length, 0)
        if eos_token_id is not None:
            check_integer("eos_token_id", eos_token_id, 0)
        self.table = table
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id
        self.inplace = inplace

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        table, depth = self.table, input_ids.shape[-1] - self.prompt_length
        if scores.shape[-1] < table.step_lookup.num_tokens:
            raise ValueError(
                f"`scores` are of {scores.shape[-1]} tokens, but the prefix table's go up to number "
                f"{table.step_lookup.num_tokens - 1}: the model's vocabulary isn't the tokenizer's. Resize it."
            )
        if depth < 0:
            raise ValueError(
                f"`prompt_length` is {self.prompt_length}, but the input has only {input_ids.shape[-1]} tokens. Give "
                "the padded width of the prompts for a decoder-only model, 1 for an encoder-decoder model."
            )
        lookup, is_complete = table.step_lookup, depth >= table.num_levels
        limits = None if is_complete else lookup.limits(depth, scores.shape)
        if depth == 0 and limits is not None:
            return self._lower(scores, limits[0], limits[1][:1])
        nodes, found = lookup.find(input_ids, self.prompt_length)
        if (found is not None and not found.any()) or (is_complete and self.eos_token_id is None):
            raise ValueError(
                f"No row has a legal continuation after {depth} tokens: a semantic ID has {table.num_levels} codes, "
                f"and `prompt_length` is {self.prompt_length}. Check `prompt_length`, and generate with "
                f"`max_new_tokens={table.num_levels}`, or one more with `eos_token_id`."
            )
        if limits is not None:
            nodes = lookup.to_torch(nodes)
            nodes = nodes if found is None else nodes.where(found, len(limits[1]) - 1)
            return self._lower(scores, limits[0], limits[1].index_select(0, nodes))
        if is_complete:
            tokens = torch.full_like(input_ids[:, :1], self.eos_token_id)
        else:
            # A token that is repeated would get its gradient as often.
            tokens = None if scores.requires_grad else lookup.tokens_after(depth, nodes)
        if tokens is None:
            nodes = lookup.to_torch(nodes)
            return self._keep_uneven(scores, depth, nodes if found is None else nodes.where(found, -1))
        kept = scores.gather(-1, tokens)
        if found is not None:
            kept = kept.where(found.unsqueeze(-1), -torch.inf)
        return self._forbid(scores).scatter_(-1, tokens, kept)

    def _forbid(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.fill_(-torch.inf) if self.inplace else torch.full_like(scores, -torch.inf)

    def _lower(self, scores: torch.Tensor, first: int, limits: torch.Tensor) -> torch.Tensor:
        """Lowers the scores of the tokens from `first` on to their limits, and all others to -inf; NaN stays NaN."""
        if limits.dtype != scores.dtype:
            limits = limits.to(scores.dtype)
        if limits.shape[-1] == scores.shape[-1]:
            return torch.minimum(scores, limits, out=scores if self.inplace else None)
        last = first + limits.shape[-1]
        if self.inplace:
            scores[:, :first].fill_(-torch.inf)
            scores[:, last:].fill_(-torch.inf)
            target = scores
        else:
            target = torch.full_like(scores, -torch.inf)
        if scores.requires_grad:
            target[:, first:last] = torch.minimum(scores[:, first:last], limits)
        else:
            torch.minimum(scores[:, first:last], limits, out=target[:, first:last])
        return target

    def _keep_uneven(self, scores: torch.Tensor, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Keeps the scores of children, where padding them to the node with the most would be a waste."""
        first, stop = self.table.child_range(depth, nodes)
        degree = stop - first
        row = torch.arange(len(nodes), device=nodes.device).repeat_interleave(degree)
        children = torch.arange(len(row), device=nodes.device) + (first - (degree.cumsum(0) - degree))[row]
        place = row * scores.shape[-1] + self.table.last_tokens(depth + 1, children)
        kept = scores.take(place)
        return self._forbid(scores).put_(place, kept)
