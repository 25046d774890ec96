# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What a retriever has to beat: random items, popular items, and the nearest neighbours of the last item."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from ..checks import check_histories, check_integer
from ..data.embeddings import ItemEmbeddings
from ..errors import DuplicateItemError, UnknownItemError, UnsatisfiableRequestError


__all__ = ["Baseline", "NearestNeighborsBaseline", "PopularityBaseline", "RandomBaseline"]

_BATCH_SIZE = 1024


class Baseline(ABC):
    """
    A ranking of a fixed set of items that needs no training; [`~Baseline.rank`] is all there is to it.

    Args:
        item_ids (`Sequence`):
            Ids of all items that can be recommended, each one once.
    """

    def __init__(self, item_ids: Sequence):
        if isinstance(item_ids, str) or not isinstance(item_ids, Iterable):
            raise TypeError(f"`item_ids` must be a sequence of ids, got {item_ids!r}.")
        self.item_ids = list(item_ids)
        if others := [item for item in self.item_ids if not isinstance(item, Hashable)]:
            raise TypeError(f"`item_ids` must be `str` or `int`, got {others[:5]}.")
        self._row_of = {item: row for row, item in enumerate(self.item_ids)}
        if len(self._row_of) < len(self.item_ids):
            raise DuplicateItemError(f"`item_ids` has {len(self.item_ids) - len(self._row_of)} repeated ids.")

    def rank(self, histories: Sequence[Sequence], top_k: int = 10, exclude_history: bool = True) -> list[list]:
        """
        Ranks items for every history.

        Args:
            histories (`list[list]`):
                Item ids that each user already has, oldest first.
            top_k (`int`, *optional*, defaults to 10):
                How many items to rank; every list has this many.
            exclude_history (`bool`, *optional*, defaults to `True`):
                Whether to leave out items of the history.

        Returns:
            `list[list]` of item ids, best first.

        Raises:
            [`UnknownItemError`]: if a history names an item that isn't among `item_ids`.
            [`InvalidSequencesError`]: if a history is empty.
            [`UnsatisfiableRequestError`]: if there aren't `top_k` items left to rank for some row.
        """
        check_integer("top_k", top_k)
        check_histories(histories)
        flat = [item for history in histories for item in history]
        unknown = [item for item in dict.fromkeys(flat) if item not in self._row_of]
        if unknown:
            raise UnknownItemError(f"`histories` name {len(unknown)} items without a row here: {unknown[:5]}.")
        lengths = np.fromiter(map(len, histories), np.int64, len(histories))
        num_rows, num_items = len(histories), len(self.item_ids)
        items = np.fromiter(map(self._row_of.__getitem__, flat), np.int64, len(flat))
        last_items = items[np.cumsum(lengths) - 1]
        # A pair of history and item is one number, so that one look-up finds all seen items.
        seen = np.unique(np.repeat(np.arange(num_rows), lengths) * num_items + items)
        seen = seen if exclude_history else seen[:0]
        num_seen = np.bincount(seen // num_items, minlength=num_rows)
        if top_k + num_seen.max(initial=0) > num_items:
            raise UnsatisfiableRequestError(
                f"`top_k`={top_k} items can't be ranked for every row: there are {num_items} items, of which row "
                f"{num_seen.argmax()} has seen {num_seen.max()}. Ask for fewer, or set `exclude_history=False`."
            )
        ranked = np.empty((num_rows, top_k), dtype=np.int64)
        # Of a row's first `top_k` + (items seen) candidates, `top_k` at least are unseen. Rows that have seen equally
        # much go together, so that one long history doesn't make all searches wide.
        order = np.argsort(num_seen, kind="stable")
        for start in range(0, num_rows, _BATCH_SIZE):
            rows = order[start : start + _BATCH_SIZE]
            candidates = self._candidates(last_items[rows], top_k + int(num_seen[rows[-1]]), start)
            is_seen = _contains(seen, candidates + rows[:, None] * num_items)
            unseen_first = np.argsort(is_seen, axis=1, kind="stable")[:, :top_k]
            ranked[rows] = np.take_along_axis(candidates, unseen_first, axis=1)
        ids = np.empty(len(self.item_ids), dtype=object)
        ids[:] = self.item_ids
        return ids[ranked].tolist()

    @abstractmethod
    def _candidates(self, last_items: np.ndarray, width: int, batch: int) -> np.ndarray:
        """
        Distinct item rows of shape `(len(last_items), width)`, best first, for a batch of histories: the last item of
        each, and a number that differs from batch to batch.
        """


class RandomBaseline(Baseline):
    """
    Items in random order, another order for every row; the same ones each time [`~Baseline.rank`] is called.

    Args:
        item_ids (`Sequence`):
            Ids of all items.
        seed (`int`, *optional*, defaults to 0):
            Seed of the orders.

    Example:

    ```python
    >>> from forge_hf.evaluation import RandomBaseline

    >>> len(RandomBaseline(["a", "b", "c", "d"], seed=0).rank([["a"]], top_k=3)[0])
    3
    ```
    """

    def __init__(self, item_ids: Sequence, seed: int = 0):
        super().__init__(item_ids)
        check_integer("seed", seed, 0)
        self.seed = seed

    def _candidates(self, last_items: np.ndarray, width: int, batch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, batch])
        drawn = rng.integers(len(self.item_ids), size=(len(last_items), width))
        # Whatever repeats an item of its row is drawn again, until nothing does. No item is treated differently from
        # another, so all orders are equally likely.
        rows = np.arange(len(drawn))
        while len(rows):
            order = np.argsort(drawn[rows], axis=1, kind="stable")
            ascending = np.take_along_axis(drawn[rows], order, axis=1)
            repeats = np.diff(ascending, axis=1, prepend=-1) == 0
            at, place = np.nonzero(repeats)
            drawn[rows[at], order[at, place]] = rng.integers(len(self.item_ids), size=len(at))
            rows = rows[repeats.any(axis=1)]
        return drawn


class PopularityBaseline(Baseline):
    """
    Items by how often they occur in the training sequences, for everybody alike; ties in the order of `item_ids`.

    Args:
        item_ids (`Sequence`):
            Ids of all items; those that never occur come last.
        sequences (`Sequence[Sequence]`):
            Training sequences of item ids, such as the column `items` of the `train` split.

    Raises:
        [`UnknownItemError`]: if a sequence names an item that isn't among `item_ids`.

    Example:

    ```python
    >>> from forge_hf.evaluation import PopularityBaseline

    >>> PopularityBaseline(["a", "b", "c"], sequences=[["c", "b"], ["a", "c"]]).rank([["a"]], top_k=2)
    [['c', 'b']]
    ```
    """

    def __init__(self, item_ids: Sequence, sequences: Sequence[Sequence]):
        super().__init__(item_ids)
        check_histories(sequences, "sequences")
        flat = [item for sequence in sequences for item in sequence]
        unknown = [item for item in dict.fromkeys(flat) if item not in self._row_of]
        if unknown:
            raise UnknownItemError(f"`sequences` name {len(unknown)} items not among `item_ids`: {unknown[:5]}.")
        rows = np.fromiter(map(self._row_of.__getitem__, flat), np.int64, len(flat))
        self.counts = np.bincount(rows, minlength=len(self.item_ids))
        self._order = np.argsort(-self.counts, kind="stable")

    def _candidates(self, last_items: np.ndarray, width: int, batch: int) -> np.ndarray:
        return np.tile(self._order[:width], (len(last_items), 1))


class NearestNeighborsBaseline(Baseline):
    """
    The items nearest to the last one of the history, by the cosine of their embeddings (exact, with faiss); equally
    near ones in the order of `item_ids`.

    Without `exclude_history` the last item itself comes first.

    Args:
        embeddings ([`ItemEmbeddings`] or `np.ndarray` of shape `(num_items, embedding_dim)`):
            Item embeddings, of any length.
        item_ids (`Sequence`, *optional*):
            Ids of the embeddings' rows. Those of the [`ItemEmbeddings`] by default, else the row numbers.

    Raises:
        `ValueError`: if there aren't as many `item_ids` as embeddings.
        [`InvalidEmbeddingsError`]: if `embeddings` are empty or not finite.

    Example:

    ```python
    >>> import numpy as np
    >>> from forge_hf.evaluation import NearestNeighborsBaseline

    >>> embeddings = np.array([[1, 0], [0, 1], [3, 1]], dtype="float32")
    >>> NearestNeighborsBaseline(embeddings, ["a", "b", "c"]).rank([["b", "a"]], top_k=1)
    [['c']]
    ```
    """

    def __init__(self, embeddings: ItemEmbeddings | np.ndarray, item_ids: Sequence | None = None):
        import faiss  # only this baseline needs it

        if isinstance(embeddings, ItemEmbeddings):
            item_ids = embeddings.item_ids if item_ids is None else item_ids
            embeddings = embeddings.to_tensor().numpy()
        ItemEmbeddings(embeddings).validate()
        super().__init__(range(len(embeddings)) if item_ids is None else item_ids)
        if len(self.item_ids) != len(embeddings):
            raise ValueError(f"`item_ids` has {len(self.item_ids)} ids for {len(embeddings)} embeddings.")
        vectors = np.array(embeddings, dtype=np.float32, order="C")
        faiss.normalize_L2(vectors)
        self._vectors = vectors
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def _candidates(self, last_items: np.ndarray, width: int, batch: int) -> np.ndarray:
        similarities, rows = self._index.search(self._vectors[last_items], width)
        # faiss leaves the order of equal similarities open; catalogs do have items with the same text.
        return np.take_along_axis(rows, np.lexsort([rows, -similarities], axis=1), axis=1)


def _contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether each of `values` is among `ascending`; `np.isin` would sort both for every batch."""
    if len(ascending) == 0:
        return np.zeros(values.shape, dtype=bool)
    return ascending[np.searchsorted(ascending, values).clip(max=len(ascending) - 1)] == values
