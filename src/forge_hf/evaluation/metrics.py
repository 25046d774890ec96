# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of ranked item lists: pure functions, each a mean over rows.

A ranking is one of two things. A list of lists of item ids, best first, of any lengths; or, where there are many rows,
an integer array or tensor of shape `(batch_size, width)` whose unused places hold -1. Truths are one item id a row,
several (a list, tuple or set of them), or an array like the rankings'. An item that a list names twice counts once, at
its first place; the second one still takes up its place.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import numpy as np
import torch

from ..checks import check_integer, shorten


__all__ = [
    "catalog_coverage_at_k",
    "entropy_at_k",
    "hit_rate_at_k",
    "invalid_rate",
    "mrr_at_k",
    "ndcg_at_k",
    "recall_at_k",
]


def recall_at_k(rankings, truths, k: int) -> float:
    """
    Mean share of a row's true items that are among its first `k`: `|top-k ∩ truth| / |truth|`.

    With one true item a row this is 0 or 1 per row. With several, a row with more than `k` of them can't reach 1 (no
    division by `min(k, |truth|)`).

    Args:
        rankings (`list[list]` or integer array of shape `(batch_size, width)`):
            Ranked items of every row, best first.
        truths (`list` or integer array):
            The true item, or items, of every row.
        k (`int`):
            How many of the first places count.

    Returns:
        `float` between 0 and 1.

    Raises:
        `ValueError`: if `k` is below 1, there are no rows, rows don't match, or a row has no true item.

    Example:

    ```python
    >>> from forge_hf.evaluation import recall_at_k

    >>> recall_at_k([["a", "b"], ["c", "d"]], truths=["b", "x"], k=2)
    0.5
    ```
    """
    rows, _, num_truths = _hits(rankings, truths, k)
    return float(np.mean(np.bincount(rows, minlength=len(num_truths)) / num_truths))


def hit_rate_at_k(rankings, truths, k: int) -> float:
    """
    FORGE's HR@k ([arXiv 2509.20904](https://huggingface.co/papers/2509.20904)): the mean of
    `|top-k ∩ truth| / |truth|` over rows.

    This is [`recall_at_k`] under the name that FORGE gives it, for any number of true items. It isn't the hit rate of
    some other libraries (1 if any true item is found), with which it agrees where every row has one true item.

    Arguments and errors are those of [`recall_at_k`].

    Example:

    ```python
    >>> from forge_hf.evaluation import hit_rate_at_k

    >>> hit_rate_at_k([["a", "b", "c"]], truths=[["c", "x"]], k=3)
    0.5
    ```
    """
    return recall_at_k(rankings, truths, k)


def ndcg_at_k(rankings, truths, k: int) -> float:
    """
    Normalized discounted cumulative gain with binary relevance: a hit at rank r (from 1) gains `1 / log2(r + 1)`, and
    the sum is divided by that of an ideal list, which has its `min(k, |truth|)` hits in the first places.

    Arguments and errors are those of [`recall_at_k`].

    Example:

    ```python
    >>> from forge_hf.evaluation import ndcg_at_k

    >>> round(ndcg_at_k([["a", "b"]], truths=["b"], k=2), 4)
    0.6309
    ```
    """
    rows, places, num_truths = _hits(rankings, truths, k)
    gains = 1 / np.log2(np.arange(k) + 2)
    ideal = np.cumsum(gains)[np.minimum(num_truths, k) - 1]
    return float(np.mean(np.bincount(rows, weights=gains[places], minlength=len(num_truths)) / ideal))


def mrr_at_k(rankings, truths, k: int) -> float:
    """
    Mean reciprocal rank: one over the rank of a row's first hit, 0 for a row with no hit among its first `k`.

    Arguments and errors are those of [`recall_at_k`].

    Example:

    ```python
    >>> from forge_hf.evaluation import mrr_at_k

    >>> mrr_at_k([["a", "b"], ["c", "d"]], truths=["b", "x"], k=2)
    0.25
    ```
    """
    rows, places, num_truths = _hits(rankings, truths, k)
    rows, first = np.unique(rows, return_index=True)  # hits are ordered by row, then place
    return float(np.sum(1 / (places[first] + 1)) / len(num_truths))


def catalog_coverage_at_k(rankings, k: int, catalog_size: int) -> float:
    """
    Share of the catalog that is recommended to anyone: distinct items among all rows' first `k`, over `catalog_size`.

    Args:
        rankings (`list[list]` or integer array of shape `(batch_size, width)`):
            Ranked items of every row, best first.
        k (`int`):
            How many of the first places count.
        catalog_size (`int`):
            How many items the catalog has.

    Example:

    ```python
    >>> from forge_hf.evaluation import catalog_coverage_at_k

    >>> catalog_coverage_at_k([["a", "b"], ["a", "c"]], k=2, catalog_size=4)
    0.75
    ```
    """
    check_integer("catalog_size", catalog_size)
    _, _, items = _flatten(rankings, k)
    (codes,) = _encode(items)
    distinct = len(np.unique(codes))
    if distinct > catalog_size:
        raise ValueError(f"`catalog_size` is {catalog_size}, but `rankings` name {distinct} distinct items.")
    return distinct / catalog_size


def invalid_rate(rankings, k: int, valid: Collection | None = None) -> float:
    """
    Share of what was generated, among all rows' first `k`, that names no item (TIGER's invalid IDs, its section 4.5).

    Args:
        rankings (`list[list]` or integer array of shape `(batch_size, width)`):
            What was generated: items, or semantic IDs as texts or tuples. `None` in a list, or -1 in an array, is
            invalid.
        k (`int`):
            How many of the first places count. Lists that are shorter have fewer places.
        valid (`Collection`, *optional*):
            All that exists (item ids, or semantic IDs); what is not among it is invalid too.

    Example:

    ```python
    >>> from forge_hf.evaluation import invalid_rate

    >>> invalid_rate([["C0C4", "C1C9"], ["C0C4", "C0C5"]], k=2, valid={"C0C4", "C0C5"})
    0.25
    ```
    """
    check_integer("k", k)
    check_rankings("rankings", rankings)
    if isinstance(rankings, np.ndarray | torch.Tensor):
        num_places = np.asarray(rankings[:, :k]).size
    else:
        num_places = sum(len(ranking[:k]) for ranking in rankings)
    _, _, items = _flatten(rankings, k)
    if valid is not None:
        valid = set(valid)
        items = [item for item in _listed(items) if item in valid]
    return 1 - len(items) / num_places if num_places else 0.0


def entropy_at_k(rankings, categories: Mapping | Sequence, k: int) -> float:
    """
    How diverse a list is: the entropy of the categories of a row's first `k` items, in nats (natural logarithm), mean
    over rows (TIGER's Entropy@K, its section 4.4). Between 0 (one category) and `log(k)` (all different).

    Args:
        rankings (`list[list]` or integer array of shape `(batch_size, width)`):
            Ranked items of every row, best first.
        categories (`Mapping` or `Sequence`):
            The category of every item: `categories[item]`. For an array of item rows, a sequence in row order.
        k (`int`):
            How many of the first places count.

    Raises:
        `ValueError`: if a ranked item has no category.

    Example:

    ```python
    >>> from forge_hf.evaluation import entropy_at_k

    >>> round(entropy_at_k([["a", "b"]], categories={"a": "Tents", "b": "Lanterns"}, k=2), 4)
    0.6931
    ```
    """
    rows, _, items = _flatten(rankings, k)
    (codes,) = _encode(items)
    first = _first_of_row(rows, codes)
    try:
        labels = [categories[item] for item in map(_listed(items).__getitem__, first.tolist())]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"`categories` lacks the category of a ranked item: {error}.") from error
    (labels,) = _encode(labels)
    if len(labels) == 0:
        return 0.0
    pairs, counts = np.unique(np.stack([rows[first], labels]), axis=1, return_counts=True)
    shares = counts / np.bincount(rows[first])[pairs[0]]
    return float(-(shares * np.log(shares)).sum() / len(rankings))


def _hits(rankings, truths, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and place (from 0) of every hit, ordered; and how many true items each row has."""
    check_rankings("rankings", rankings)
    if not isinstance(truths, Sequence | np.ndarray | torch.Tensor) or isinstance(truths, str):
        raise ValueError(f"`truths` must be a list of true items, or of lists of them, got {shorten(truths)}.")
    if len(rankings) != len(truths):
        raise ValueError(f"`rankings` has {len(rankings)} rows but `truths` has {len(truths)}.")
    if isinstance(truths, np.ndarray | torch.Tensor):
        truths = truths.reshape(len(truths), -1)
    else:
        several = (list, tuple, set, frozenset)
        truths = [list(truth) if isinstance(truth, several) else [truth] for truth in truths]
    rows, places, items = _flatten(rankings, k)
    truth_rows, _, truth_items = _flatten(truths)
    codes, truth_codes = _encode(items, truth_items)

    first, truth_first = _first_of_row(rows, codes), _first_of_row(truth_rows, truth_codes)
    rows, places, codes = rows[first], places[first], codes[first]
    truth_rows, truth_codes = truth_rows[truth_first], truth_codes[truth_first]
    num_truths = np.bincount(truth_rows, minlength=len(truths))
    if (num_truths == 0).any():
        raise ValueError(f"`truths` has no item in row {np.flatnonzero(num_truths == 0)[0]}.")
    width = max(codes.max(initial=0), truth_codes.max()) + 1
    hit = np.isin(rows * width + codes, truth_rows * width + truth_codes)
    return rows[hit], places[hit], num_truths


def _flatten(rankings, k: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | list]:
    """Row, place (from 0) and item of everything among the first `k`, in order; without padding and `None`."""
    if k is not None:
        check_integer("k", k)
    check_rankings("rankings", rankings)
    if len(rankings) == 0:
        raise ValueError("`rankings` has no rows, so there is nothing to measure.")
    if isinstance(rankings, np.ndarray | torch.Tensor):
        array = np.asarray(rankings.cpu() if isinstance(rankings, torch.Tensor) else rankings)[:, :k]
        if array.dtype.kind not in "iu":
            raise ValueError(f"An array of rankings or truths must hold integers (item rows), got {array.dtype}.")
        rows, places = np.nonzero(array >= 0)
        return rows, places, array[rows, places].astype(np.int64)
    rankings = [ranking[:k] for ranking in rankings]
    lengths = np.fromiter(map(len, rankings), np.int64, len(rankings))
    rows = np.repeat(np.arange(len(rankings)), lengths)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = list(chain.from_iterable(rankings))
    if None in items:
        present = np.array([item is not None for item in items])
        rows, places, items = rows[present], places[present], [item for item in items if item is not None]
    return rows, places, items


def _encode(*groups: np.ndarray | list) -> list[np.ndarray]:
    """The same non-negative integer for the same item, over all groups."""
    if all(isinstance(group, np.ndarray) for group in groups):
        return list(groups)
    groups = [_listed(group) for group in groups]
    try:
        numbers = {item: number for number, item in enumerate(dict.fromkeys(chain(*groups)))}
    except TypeError as error:  # a list in place of an id, say
        raise ValueError(
            f"`rankings`, `truths` and `categories` must hold ids that can be hashed: {error}."
        ) from error
    return [np.fromiter(map(numbers.__getitem__, group), np.int64, len(group)) for group in groups]


def _first_of_row(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Positions, in order, where an item occurs for the first time in its row."""
    _, first = np.unique(rows * (codes.max(initial=0) + 1) + codes, return_index=True)
    return np.sort(first)


def check_rankings(name: str, rankings) -> None:
    """Refuses what isn't a list of ranked lists, or a table of two dimensions."""
    if isinstance(rankings, np.ndarray | torch.Tensor):
        if rankings.ndim != 2:
            raise ValueError(f"`{name}` must have two dimensions, got shape {tuple(rankings.shape)}.")
        return
    if isinstance(rankings, str) or not isinstance(rankings, Sequence):
        raise ValueError(f"`{name}` must be a list of ranked lists, got {shorten(rankings)}.")
    for ranking in rankings:
        if isinstance(ranking, str) or not isinstance(ranking, Sequence | np.ndarray | torch.Tensor):
            raise ValueError(f"`{name}` must hold a list of items for each row, got {shorten(ranking)}.")


def _listed(items: np.ndarray | list) -> list:
    return items.tolist() if isinstance(items, np.ndarray) else items
