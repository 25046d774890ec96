# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Nearest neighbours of items in the space of their embeddings, and how often they are what users take together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from ..checks import check_integer, check_integers
from .quality import as_row_pairs


if TYPE_CHECKING:
    from ..data.embeddings import ItemEmbeddings


__all__ = ["embedding_hit_rate", "nearest_neighbors"]

_BLOCK_ROWS = 65_536  # embeddings in memory at once, beside those of the queries


def nearest_neighbors(embeddings: "ItemEmbeddings", rows: np.ndarray, num_neighbors: int) -> np.ndarray:
    """
    The nearest items of some items, by cosine, themselves left out: exact, with faiss.

    Embeddings are read in blocks, so memory holds the queries, one block and the neighbours. It takes about
    `2 * len(rows) * num_items * dim` operations: 10,000 queries among a million items of width 512 take minutes.

    Args:
        embeddings ([`ItemEmbeddings`]):
            Embeddings of all items, of any length.
        rows (`np.ndarray` of shape `(num_queries,)`):
            The items whose neighbours are wanted.
        num_neighbors (`int`):
            How many, at most all others.

    Returns:
        `np.ndarray` of dtype int64 and shape `(num_queries, num_neighbors)`: rows of `embeddings`, nearest first;
        equally near ones in their order, as far as they aren't cut off.

    Raises:
        [`InvalidEmbeddingsError`]: `embeddings` aren't finite.
        `ValueError`: `num_neighbors` is out of range.
        `IndexError`: `rows` are.
    """
    import faiss  # only this needs it

    check_integer("num_neighbors", num_neighbors, 1, len(embeddings) - 1)
    embeddings.validate()
    queries = _unit(embeddings.__getitems__(rows)["embeddings"])
    similarities = np.empty((len(rows), 0), dtype=np.float32)
    found = np.empty((len(rows), 0), dtype=np.int64)
    start = 0
    blocks = tqdm(embeddings.batches(_BLOCK_ROWS), "Neighbours", -(-len(embeddings) // _BLOCK_ROWS), delay=5)
    for block in blocks:
        k = min(num_neighbors + 1, len(block))  # the item itself may be among them
        near, at = faiss.knn(queries, _unit(block), k, metric=faiss.METRIC_INNER_PRODUCT)
        at += start
        near[at == rows[:, None]] = -np.inf
        similarities, found = np.hstack([similarities, near]), np.hstack([found, at])
        best = np.lexsort([found, -similarities], axis=1)[:, :num_neighbors]
        similarities, found = (np.take_along_axis(part, best, axis=1) for part in (similarities, found))
        start += len(block)
    return found


def embedding_hit_rate(pairs: np.ndarray, rows: np.ndarray, neighbors: np.ndarray, ks: Sequence[int]) -> list[float]:
    """
    FORGE's embedding hit rate (https://huggingface.co/papers/2509.20904): how much of what occurs together with an
    item is among its nearest neighbours. With `R_q` the items that occur together with `q`, and `kNN_K(q)` its `K`
    nearest items, it is the mean of `|R_q ∩ kNN_K(q)| / |R_q|` over the queries `q` with a non-empty `R_q`.

    Args:
        pairs (`np.ndarray` of shape `(num_pairs, 2)`):
            Rows of items that occur together. A pair counts for both of its items, once however often it occurs; pairs
            of an item with itself don't count.
        rows (`np.ndarray` of shape `(num_queries,)`):
            The queries, each once.
        neighbors (`np.ndarray` of shape `(num_queries, num_neighbors)`):
            Their neighbours, nearest first, such as [`nearest_neighbors`] gives.
        ks (`Sequence[int]`):
            How many neighbours count.

    Returns:
        `list[float]`, one for each of `ks`, each in `[0, 1]`.

    Raises:
        `ValueError`: No query occurs in a pair, or a `k` exceeds the number of neighbours.

    Example:

    ```python
    >>> import numpy as np
    >>> from forge_hf.semantic_ids import embedding_hit_rate

    >>> embedding_hit_rate(np.array([[0, 1], [2, 0]]), np.array([0]), np.array([[2, 3, 1]]), ks=[1, 3])
    [0.5, 1.0]
    ```
    """
    check_integers("ks", ks)
    if neighbors.ndim != 2 or len(neighbors) != len(rows) or len(rows) == 0:
        raise ValueError(
            f"`neighbors` must be of shape (num_queries, num_neighbors), one row for each of the {len(rows)} `rows`, "
            f"got {neighbors.shape}."
        )
    if max(ks) > neighbors.shape[1]:
        raise ValueError(f"`ks` must be at most the {neighbors.shape[1]} neighbours that there are, got {list(ks)}.")
    pairs = as_row_pairs(pairs, 2**62).numpy()
    span = max(int(pairs.max()), int(rows.max()), int(neighbors.max())) + 1
    query = np.full(span, -1, dtype=np.int64)
    query[rows] = np.arange(len(rows))
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[(both[:, 0] != both[:, 1]) & (query[both[:, 0]] >= 0)]
    relevant = np.unique(query[both[:, 0]] * span + both[:, 1])
    if len(relevant) == 0:
        raise ValueError("`pairs` hold none of the items in `rows` with another item.")
    counts = np.bincount(relevant // span, minlength=len(rows))
    keys = np.arange(len(rows))[:, None] * span + neighbors
    hits = relevant[np.searchsorted(relevant, keys).clip(max=len(relevant) - 1)] == keys
    found, asked = np.cumsum(hits, axis=1), counts > 0
    return [float((found[asked, k - 1] / counts[asked]).mean()) for k in ks]


def _unit(embeddings: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(embeddings, dim=1).numpy()
