# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How well a set of semantic IDs uses its codebooks and tells items apart: pure functions on codes."""

from collections.abc import Sequence

import numpy as np
import torch

from .layout import SemanticIdLayout, row_keys


__all__ = ["codebook_perplexity", "codebook_utilization", "collision_rate", "gini", "prefix_collision_rates"]


def codebook_utilization(codes: torch.Tensor, codebook_sizes: Sequence[int]) -> torch.Tensor:
    """
    Share of each level's codes that at least one item uses.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes, counted from 0 in each level.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.

    Returns:
        `torch.Tensor` of dtype float64 and shape `(num_levels,)`, each in `(0, 1]`.

    Raises:
        [`InvalidCodesError`]: `codes` don't fit `codebook_sizes`.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import codebook_utilization

    >>> codebook_utilization(torch.tensor([[0, 1], [0, 3]]), [4, 4])
    tensor([0.2500, 0.5000], dtype=torch.float64)
    ```
    """
    shares = _code_shares(codes, codebook_sizes)
    return torch.stack([(share > 0).double().mean() for share in shares])


def codebook_perplexity(codes: torch.Tensor, codebook_sizes: Sequence[int]) -> torch.Tensor:
    """
    Exponential of the entropy of each level's use: how many codes it would take if all were used equally.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes, counted from 0 in each level.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.

    Returns:
        `torch.Tensor` of dtype float64 and shape `(num_levels,)`, each in `[1, codebook_size]`.

    Raises:
        [`InvalidCodesError`]: `codes` don't fit `codebook_sizes`.
    """
    shares = _code_shares(codes, codebook_sizes)
    return torch.stack([torch.special.entr(share).sum().exp() for share in shares])


def collision_rate(codes: torch.Tensor) -> float:
    """
    Share of items that a semantic ID doesn't tell apart: `1 - (distinct semantic IDs) / (items)`.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.

    Returns:
        `float`: 0 when no two items share a semantic ID.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import collision_rate

    >>> collision_rate(torch.tensor([[0, 1], [0, 1], [2, 2], [3, 0]]))
    0.25
    ```
    """
    return 1 - len(_group_sizes(codes)) / len(codes)


def prefix_collision_rates(codes: torch.Tensor) -> torch.Tensor:
    """
    Collision rate of the first one, two, ... levels.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.

    Returns:
        `torch.Tensor` of dtype float64 and shape `(num_levels,)`. It never rises, and ends with the
        [`collision_rate`].
    """
    rates = [collision_rate(codes[:, : level + 1]) for level in range(codes.shape[1])]
    return torch.tensor(rates, dtype=torch.float64)


def gini(codes: torch.Tensor) -> float:
    """
    Gini coefficient of how many items each occupied semantic ID holds, FORGE's measure of imbalance
    (https://huggingface.co/papers/2509.20904). With `N` occupied semantic IDs of sizes `x`, ascending:
    `G = (N + 1) / N - 2 * sum_i (N + 1 - i) * x_i / (N * sum_i x_i)`.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.

    Returns:
        `float` in `[0, 1)`: 0 when every occupied semantic ID holds equally many items. Empty ones don't count, so
        read it beside [`codebook_utilization`].
    """
    sizes = np.sort(_group_sizes(codes)).astype(np.float64)
    count = len(sizes)
    falling = np.arange(count, 0, -1)
    return float((count + 1) / count - 2 * (falling * sizes).sum() / (count * sizes.sum()))


def _group_sizes(codes: torch.Tensor) -> np.ndarray:
    if len(codes) == 0:
        raise ValueError("`codes` is empty: a rate needs at least one item.")
    return np.unique(row_keys(codes), return_counts=True)[1]


def _code_shares(codes: torch.Tensor, codebook_sizes: Sequence[int]) -> list[torch.Tensor]:
    layout = SemanticIdLayout(codebook_sizes)
    codes = layout.validate(codes)
    if codes.numel() == 0:
        raise ValueError("`codes` is empty: a share needs at least one item.")
    columns = codes.reshape(-1, layout.num_levels).T
    return [
        torch.bincount(column, minlength=size).double() / len(column)
        for column, size in zip(columns, layout.codebook_sizes, strict=True)
    ]
