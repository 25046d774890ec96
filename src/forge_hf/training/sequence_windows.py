# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What a retriever learns from: windows over user sequences, kept as flat arrays of catalog rows."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset as HFDataset
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..checks import check_dataset, check_integer
from ..errors import InvalidSequencesError
from ..semantic_ids import SemanticIdCatalog
from .fingerprints import fingerprint


__all__ = ["LengthGroupedEpochSampler", "SequenceWindows"]


class SequenceWindows(Dataset):
    """
    Windows over the sequences of users, as rows of a catalog.

    A decoder-only model learns every next item of a window in one pass, so that its windows tile the sequences. An
    encoder-decoder learns the last item of a window from those before it, so that each position ends a window of its
    own (TIGER, https://huggingface.co/papers/2305.05065).

    Args:
        sequences (`datasets.Dataset`):
            One row a user, with the columns `user_id` and `items`, oldest item first.
        catalog ([`SemanticIdCatalog`]):
            Catalog that names every item.
        max_items (`int`):
            Most items that a model reads.
        every_prefix (`bool`):
            Whether each item after a user's first ends a window of at most `max_items + 1` items. Otherwise windows
            of at most `max_items` tile each sequence, counted from its end.

    Raises:
        [`InvalidSequencesError`]: There are no sequences of at least two items.
        [`UnknownItemError`]: An item isn't in the catalog.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf.semantic_ids import SemanticIdCatalog
    >>> from forge_hf.training import SequenceWindows

    >>> catalog = SemanticIdCatalog.from_codes([7, 8, 9], [[0], [1], [2]], codebook_sizes=[3], on_collision="keep")
    >>> sequences = Dataset.from_dict({"user_id": [1], "items": [[7, 8, 9]]})
    >>> windows = SequenceWindows(sequences, catalog, max_items=2, every_prefix=True)
    >>> [window["rows"].tolist() for window in windows]
    [[0, 1], [0, 1, 2]]
    ```
    """

    def __init__(self, sequences: HFDataset, catalog: SemanticIdCatalog, max_items: int, every_prefix: bool):
        check_dataset("sequences", sequences)
        check_integer("max_items", max_items)
        if "items" not in sequences.column_names:
            raise InvalidSequencesError(f"`sequences` lacks the column 'items'; it has {sequences.column_names}.")
        items = sequences.with_format("arrow")["items"][:].combine_chunks() if len(sequences) else None
        if items is not None and not (pa.types.is_list(items.type) or pa.types.is_large_list(items.type)):
            raise InvalidSequencesError(f"`sequences` must have lists of item ids in `items`, got {items.type}.")
        if items is None or len(items.flatten()) == 0:
            raise InvalidSequencesError("`sequences` must hold at least one item, got none.")
        stops = np.cumsum(items.value_lengths().to_numpy(zero_copy_only=False))
        starts = np.concatenate([[0], stops[:-1]])
        self.num_sequences = len(sequences)
        self.rows = catalog.indices_for(items.flatten().to_pylist())
        self.user_ids = sequences["user_id"][:] if "user_id" in sequences.column_names else None
        make = _prefix_windows if every_prefix else _tiling_windows
        if (stops - starts).max() < 2:
            raise InvalidSequencesError("`sequences` must hold a sequence of at least 2 items, got none.")
        self._starts, self._stops, self._users = make(starts, stops, max_items)

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each window."""
        return self._stops - self._starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict:
        user = self._users[index]
        return {
            "rows": self.rows[self._starts[index] : self._stops[index]],
            "user_id": None if self.user_ids is None else self.user_ids[user],
        }

    def names(self, indices: Sequence[int]) -> list:
        """Who the users of windows are: their ids, or else the numbers of their sequences, from 0."""
        users = self._users[np.asarray(indices)].tolist()
        return users if self.user_ids is None else [self.user_ids[user] for user in users]

    def fingerprint(self) -> str:
        """A hash of the windows."""
        return fingerprint(self.rows, self._starts, self._stops, self.user_ids)


def _prefix_windows(starts: np.ndarray, stops: np.ndarray, max_items: int) -> tuple[np.ndarray, ...]:
    users = np.repeat(np.arange(len(starts)), np.maximum(stops - starts - 1, 0))
    first_of_user = np.cumsum(np.concatenate([[0], np.maximum(stops - starts - 1, 0)[:-1]]))
    ends = starts[users] + 2 + (np.arange(len(users)) - first_of_user[users])
    return np.maximum(starts[users], ends - max_items - 1), ends, users


def _tiling_windows(starts: np.ndarray, stops: np.ndarray, max_items: int) -> tuple[np.ndarray, ...]:
    counts = -(-(stops - starts) // max_items)
    users = np.repeat(np.arange(len(starts)), counts)
    first_of_user = np.cumsum(np.concatenate([[0], counts[:-1]]))
    ends = stops[users] - max_items * (np.arange(len(users)) - first_of_user[users])
    return np.maximum(starts[users], ends - max_items), ends, users


class LengthGroupedEpochSampler(Sampler):
    """
    Shuffles anew each epoch, with windows of like length side by side, so that batches hold little padding.

    The order depends on `seed` and epoch alone, and so is the same in every process and after a resume.

    Args:
        lengths (`np.ndarray` of shape `(num_windows,)`):
            Length of each window.
        batch_size (`int`):
            Number of windows in a batch, over all processes.
        seed (`int`):
            Seed of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        check_integer("batch_size", batch_size)
        if len(lengths) == 0:
            raise ValueError("`lengths` is empty: there is nothing to sample.")
        self._lengths = lengths.tolist()
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(hash((self._seed, self._epoch)) % 2**63)
        indices = get_length_grouped_indices(self._lengths, self._batch_size, generator=generator)
        batches = [indices[i : i + self._batch_size] for i in range(0, len(indices), self._batch_size)]
        # The grouping sorts within megabatches of 50 batches: shuffle the batches, or lengths would come in waves. The
        # last one may be short and stays last; the first holds the longest windows, so that memory runs out at once.
        middle = torch.randperm(max(len(batches) - 2, 0), generator=generator).tolist()
        order = [0, *(i + 1 for i in middle), len(batches) - 1] if len(batches) > 1 else [0]
        return iter([index for i in order for index in batches[i]])
