# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How well a set of semantic IDs uses its codebooks and tells items apart: pure functions on codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..checks import check_integer
from .layout import SemanticIdLayout, as_codes, row_numbers


__all__ = [
    "codebook_perplexity",
    "codebook_utilization",
    "codes_quality",
    "collision_rate",
    "gini",
    "max_load",
    "pairs_by_shared_prefix",
    "prefix_collision_rates",
    "prefix_groups",
    "prefix_purity",
    "random_pairs_by_shared_prefix",
]


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
    loads = _group_sizes(codes)
    return 1 - len(loads) / int(loads.sum())


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
    codes = as_codes(codes)
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
    return _gini(_group_sizes(codes))


def max_load(codes: torch.Tensor) -> int:
    """
    The most items that share one semantic ID.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
    """
    return int(_group_sizes(codes).max())


def codes_quality(original_codes: torch.Tensor, codes: torch.Tensor, codebook_sizes: Sequence[int]) -> dict[str, Any]:
    """
    All that codes alone tell, as the first fields of [`SemanticIdQuality`] name it.

    Args:
        original_codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            What the item tokenizer gave.
        codes (`torch.Tensor` of shape `(num_items, ...)`):
            What became of them.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level of `original_codes`.
    """
    found = {"num_items": len(codes)}
    for name, of in (("", original_codes), ("resolved_", codes)):
        loads = _group_sizes(of)
        found[f"{name}collision_rate"] = 1 - len(loads) / len(codes)
        found[f"{name}max_load"] = int(loads.max())
        found[f"{name}gini"] = _gini(loads)
    return found | {
        "utilization": codebook_utilization(original_codes, codebook_sizes).tolist(),
        "perplexity": codebook_perplexity(original_codes, codebook_sizes).tolist(),
        "prefix_collision_rates": prefix_collision_rates(original_codes).tolist(),
    }


def prefix_groups(codes: torch.Tensor) -> np.ndarray:
    """
    For the first one, two, ... levels, the group of each item: items are in one group if they share these codes.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.

    Returns:
        `np.ndarray` of dtype int64 and shape `(num_levels, num_items)`: groups, numbered from 0.
    """
    codes = as_codes(codes)
    groups = np.empty((codes.shape[1], len(codes)), dtype=np.int64)
    group = np.zeros(len(codes), dtype=np.int64)
    for level, column in enumerate(codes.cpu().numpy().T):
        pairs = np.stack([group, column], axis=1)
        group = np.unique(row_numbers(pairs, [len(codes), int(column.max()) + 1]), return_inverse=True)[1]
        groups[level] = group
    return groups


def prefix_purity(codes: torch.Tensor, categories: Sequence, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How far the first one, two, ... codes tell the category of an item: the share of items whose category is the
    commonest of the items with the same codes there.

    The more groups, the purer they are by themselves (a group of one item always is), so it means something only
    beside chance: the same measure once the categories are dealt out to the items at random, averaged over 5 deals.
    `(purity - chance) / (1 - chance)` is 0 where codes know nothing of categories, and 1 where they tell them.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        categories (`Sequence` of length `num_items`):
            The category of each item. Items whose category is `None` are left out.
        seed (`int`, *optional*, defaults to 0):
            Seed of the deals.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of dtype float64 and shape `(num_levels,)`: purity and chance. Neither ever
        falls from one length to the next.

    Raises:
        `ValueError`: `categories` has another length than `codes`, or only `None`.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import prefix_purity

    >>> purity, chance = prefix_purity(torch.tensor([[0, 1], [0, 2], [0, 2], [1, 0]]), ["mug", "tent", "tent", "pen"])
    >>> purity
    tensor([0.7500, 1.0000], dtype=torch.float64)
    ```
    """
    codes = as_codes(codes)
    check_integer("seed", seed, 0)
    if isinstance(categories, str) or not isinstance(categories, Sequence | np.ndarray):
        raise ValueError(f"`categories` must be a sequence of one for each item, got {type(categories).__name__}.")
    if len(categories) != len(codes):
        raise ValueError(f"`categories` must name one of each of the {len(codes)} items, got {len(categories)}.")
    known = np.array([category is not None for category in categories], dtype=bool)
    if not known.any():
        raise ValueError("`categories` must hold at least one that isn't `None`.")
    labels = np.unique([str(category) for category in categories if category is not None], return_inverse=True)[1]
    groups = prefix_groups(codes[torch.from_numpy(known)])
    generator = np.random.default_rng(seed)
    dealt = [generator.permutation(labels) for _ in range(5)]
    purity = [_purity(group, labels) for group in groups]
    chance = [np.mean([_purity(group, deal) for deal in dealt]) for group in groups]
    return torch.tensor(purity, dtype=torch.float64), torch.tensor(chance, dtype=torch.float64)


def pairs_by_shared_prefix(codes: torch.Tensor, pairs: np.ndarray | torch.Tensor) -> torch.Tensor:
    """
    The share of pairs of items that have at least the first one, two, ... codes in common.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        pairs (`np.ndarray` or `torch.Tensor` of shape `(num_pairs, 2)`):
            Rows of `codes`.

    Returns:
        `torch.Tensor` of dtype float64 and shape `(num_levels,)`, never rising.
    """
    codes = as_codes(codes)
    pairs = as_row_pairs(pairs, len(codes))
    together = torch.ones(len(pairs), dtype=torch.bool)
    shares = []
    for column in codes.T:
        together &= column[pairs[:, 0]] == column[pairs[:, 1]]
        shares.append(together.double().mean())
    return torch.stack(shares)


def random_pairs_by_shared_prefix(codes: torch.Tensor) -> torch.Tensor:
    """
    [`pairs_by_shared_prefix`] of all pairs of different items, which is what random pairs have: exactly
    `sum_g n_g (n_g - 1) / (N (N - 1))` over groups of `n_g` items with the same first codes.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item, of two items or more.

    Returns:
        `torch.Tensor` of dtype float64 and shape `(num_levels,)`.
    """
    codes = as_codes(codes)
    if len(codes) < 2:
        raise ValueError("`codes` must hold two items or more to make a pair.")
    sizes = [np.bincount(group).astype(np.float64) for group in prefix_groups(codes)]
    return torch.tensor([(n * (n - 1)).sum() for n in sizes], dtype=torch.float64) / (len(codes) * (len(codes) - 1))


def as_row_pairs(pairs: np.ndarray | torch.Tensor, num_rows: int) -> torch.Tensor:
    """Pairs of rows as an int64 tensor of shape `(num_pairs, 2)`, checked."""
    pairs = torch.as_tensor(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"`pairs` must have shape (num_pairs, 2) and at least one pair, got {tuple(pairs.shape)}.")
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        raise ValueError(f"`pairs` must be integers, rows of `codes`, got {pairs.dtype}.")
    if pairs.min() < 0 or pairs.max() >= num_rows:
        raise ValueError(
            f"`pairs` must be rows from 0 to {num_rows - 1}, got {int(pairs.min())} to {int(pairs.max())}."
        )
    return pairs.long()


def _gini(loads: np.ndarray) -> float:
    loads = np.sort(loads).astype(np.float64)
    count = len(loads)
    falling = np.arange(count, 0, -1)
    return float((count + 1) / count - 2 * (falling * loads).sum() / (count * loads.sum()))


def _purity(groups: np.ndarray, labels: np.ndarray) -> float:
    cells, counts = np.unique(groups * (labels.max() + 1) + labels, return_counts=True)
    best = np.zeros(groups.max() + 1, dtype=np.int64)
    np.maximum.at(best, cells // (labels.max() + 1), counts)
    return best.sum() / len(groups)


def _group_sizes(codes: torch.Tensor) -> np.ndarray:
    codes = as_codes(codes)
    sizes = codes.amax(dim=0) + 1
    return np.unique(row_numbers(codes, sizes.tolist()), return_counts=True)[1]


def _code_shares(codes: torch.Tensor, codebook_sizes: Sequence[int]) -> list[torch.Tensor]:
    layout = SemanticIdLayout(codebook_sizes)
    columns = layout.validate(as_codes(codes)).T
    return [
        torch.bincount(column, minlength=size).double() / len(column)
        for column, size in zip(columns, layout.codebook_sizes, strict=True)
    ]
