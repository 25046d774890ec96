# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A logits processor that lets `model.generate` produce semantic IDs of a catalog and nothing else."""

import torch
from transformers import LogitsProcessor

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

    def __init__(self, table: PrefixTable, prompt_length: int, eos_token_id: int | None = None):
        if prompt_length < 0:
            raise ValueError(f"`prompt_length` must not be negative, got {prompt_length}.")
        self.table = table
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        depth = input_ids.shape[-1] - self.prompt_length
        if depth < 0:
            raise ValueError(
                f"`prompt_length` is {self.prompt_length}, but the input has only {input_ids.shape[-1]} tokens. Give "
                "the padded width of the prompts for a decoder-only model, 1 for an encoder-decoder model."
            )
        num_levels = self.table.num_levels
        nodes = self.table.lookup(input_ids[:, self.prompt_length :][:, :num_levels])
        legal = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        if depth < num_levels:
            children = self.table.children(depth, nodes)
            row, column = children.legal.nonzero(as_tuple=True)
            legal[row, children.tokens[row, column]] = True
        elif self.eos_token_id is not None:
            legal[:, self.eos_token_id] = nodes >= 0
        if not legal.any():
            raise ValueError(
                f"No row has a legal continuation after {depth} tokens: a semantic ID has {num_levels} codes, and "
                f"`prompt_length` is {self.prompt_length}. Check `prompt_length`, and generate with "
                f"`max_new_tokens={num_levels}`, or one more with `eos_token_id`."
            )
        return scores.masked_fill(~legal, -torch.inf)
