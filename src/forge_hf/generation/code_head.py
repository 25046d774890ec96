# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Log-probabilities of a few tokens a row from a model's output head, without the logits of the whole vocabulary."""

import torch
from torch import nn


__all__ = ["NORMALIZATIONS", "CodeHead", "segment_logsumexp"]

NORMALIZATIONS = ("vocabulary", "level", "legal")

# A block of logits: 1 MiB of float32, which stays in the processor's cache.
BLOCK_ROWS, BLOCK_LOGITS = 256, 1 << 18
# Numbers in a block of gathered weights or of the logits of a head that can't be cut.
BLOCK_NUMBERS = 1 << 21


class CodeHead:
    """
    Scores chosen tokens with a model's output head.

    The normaliser over the vocabulary is summed up while the product of hidden states and head goes on in blocks of
    rows and tokens, in float32 whatever the head's type, so that it equals `head(hidden).float().logsumexp(-1)` and
    no tensor of rows times vocabulary ever exists. A head that is more than a plain `nn.Linear` (an unmerged adapter,
    trainable tokens, hooks, quantised weights) is called as it is, on a few rows at a time.

    Args:
        head (`nn.Module`): The output embeddings of a language model.
    """

    def __init__(self, head: nn.Module):
        self.head = head
        self.is_plain = type(head) is nn.Linear and not (
            head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
        )

    def log_probs(
        self,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        tokens: torch.Tensor,
        level_tokens: torch.Tensor,
        normalization: str,
    ) -> torch.Tensor:
        """
        Log-probability of each (row, token) pair.

        Args:
            hidden (`torch.Tensor` of shape `(num_rows, hidden_size)`):
                Inputs of the head.
            rows (`torch.LongTensor` of shape `(num_pairs,)`):
                Row of each pair, in ascending order.
            tokens (`torch.LongTensor` of shape `(num_pairs,)`):
                Token of each pair, among `level_tokens`, and within a row in their order, none twice.
            level_tokens (`torch.LongTensor` of shape `(num_codes,)`):
                Tokens of the level's codes.
            normalization (`str`):
                Over which tokens the probabilities of a row sum to 1: `"vocabulary"`, `"level"` (`level_tokens`) or
                `"legal"` (those that the row has pairs of).

        Returns:
            `torch.FloatTensor` of shape `(num_pairs,)`, in float32.
        """
        if not self.is_plain:
            return self._by_calls(hidden, rows, tokens, level_tokens, normalization)
        weight, bias = self.head.weight, self.head.bias
        hidden = hidden.to(weight.dtype)  # a model that autocasts by itself may end in another
        if normalization == "vocabulary" and len(hidden) * len(weight) <= BLOCK_LOGITS:
            # So few that the whole is one block: of a few rows nothing is spared by making less.
            logits = _product(hidden, weight) if bias is None else _product(hidden, weight) + bias
            logits = logits.float()
            return logits[rows, tokens] - _finite(logits.logsumexp(dim=-1))[rows]
        logits = self._logits(hidden, rows, tokens, level_tokens)
        if normalization == "legal":
            normalizer = segment_logsumexp(logits, rows, len(hidden))
        elif normalization == "level":
            normalizer = _logsumexp(hidden, _take(weight, level_tokens), None if bias is None else bias[level_tokens])
        else:
            normalizer = _logsumexp(hidden, weight, bias)
        return logits - _finite(normalizer)[rows]

    def _logits(self, hidden, rows, tokens, level_tokens):
        weight, bias = self.head.weight, self.head.bias
        # One product with all codes of the level costs less than gathering weights once many of them are asked for.
        if len(rows) == len(hidden) * len(level_tokens):
            logits = _product(hidden, _take(weight, level_tokens)).float().flatten()
        elif 8 * len(rows) > len(hidden) * len(level_tokens):
            place = torch.empty(len(weight), dtype=torch.int64, device=hidden.device)
            place[level_tokens] = torch.arange(len(level_tokens), device=hidden.device)
            level_weight, places, parts = _take(weight, level_tokens), place[tokens], []
            for block, pairs in _row_blocks(len(hidden), max(1, BLOCK_NUMBERS // len(level_tokens)), rows):
                parts.append(_product(hidden[block], level_weight)[rows[pairs] - block.start, places[pairs]].float())
            logits = torch.cat(parts)
        else:
            size, parts = max(1, BLOCK_NUMBERS // hidden.shape[-1]), []
            for some_rows, some_tokens in zip(rows.split(size), tokens.split(size), strict=True):
                product = (weight[some_tokens].float() * hidden[some_rows].float()).sum(dim=-1)
                parts.append(product.to(weight.dtype).float())
            logits = torch.cat(parts)
        return logits if bias is None else (logits.to(bias.dtype) + bias[tokens]).float()

    def _by_calls(self, hidden, rows, tokens, level_tokens, normalization):
        parts = []
        size = max(1, BLOCK_NUMBERS // max(hidden.shape[-1], getattr(self.head, "out_features", 1)))
        for block, pairs in _row_blocks(len(hidden), size, rows):
            logits = self.head(hidden[block]).float()
            chosen, block_rows = logits[rows[pairs] - block.start, tokens[pairs]], rows[pairs] - block.start
            if normalization == "legal":
                normalizer = segment_logsumexp(chosen, block_rows, len(logits))
            else:
                normalizer = (logits[:, level_tokens] if normalization == "level" else logits).logsumexp(dim=-1)
            parts.append(chosen - _finite(normalizer)[block_rows])
        return torch.cat(parts)


def segment_logsumexp(values: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """`logsumexp` of the values of each row, of shape `(num_rows,)`; -inf for a row without any."""
    top = values.new_full((num_rows,), torch.finfo(values.dtype).min).scatter_reduce_(0, rows, values, "amax")
    return torch.zeros_like(top).scatter_add_(0, rows, (values - top[rows]).exp_()).log_() + top


def _finite(normalizer: torch.Tensor) -> torch.Tensor:
    """NaN where some logit is infinite: else every other token would merely have a probability of 0."""
    return normalizer.masked_fill(normalizer == torch.inf, torch.nan)


def _product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`hidden @ weight.T`; of a single row by the product that is made for it, several times as fast."""
    if len(hidden) == 1 and hidden.dtype == weight.dtype == torch.float32:
        return weight.mv(hidden[0]).unsqueeze(0)
    return hidden @ weight.T


def _take(weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of a matrix; without a copy where they are neighbours, as codes of a level mostly are."""
    first = int(tokens[0])
    if torch.equal(tokens, torch.arange(first, first + len(tokens), device=tokens.device)):
        return weight[first : first + len(tokens)]
    return weight[tokens]


def _row_blocks(num_rows: int, size: int, rows: torch.Tensor):
    """Slices of rows, and of the pairs that fall into them; `rows` of the pairs are in ascending order."""
    starts = list(range(0, num_rows, size))
    bounds = torch.searchsorted(rows, torch.tensor([*starts, num_rows], device=rows.device)).tolist()
    for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
        yield slice(start, start + size), slice(first, last)


def _logsumexp(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`(hidden @ weight.T + bias).float().logsumexp(-1)`, block by block."""
    parts = []
    for rows in hidden.split(BLOCK_ROWS):
        top = torch.full((len(rows), 1), torch.finfo(torch.float32).min, device=hidden.device)
        total = torch.zeros_like(top)
        size = BLOCK_LOGITS // len(rows)
        for start in range(0, len(weight), size):
            stop = start + size
            logits = _product(rows, weight[start:stop])
            if bias is not None:
                logits += bias[start:stop]
            logits = logits.float()
            higher = torch.maximum(top, logits.amax(dim=-1, keepdim=True))
            total = total * (top - higher).exp_() + logits.sub_(higher).exp_().sum(dim=-1, keepdim=True)
            top = higher
        parts.append((total.log_() + top).squeeze(-1))
    return torch.cat(parts)
