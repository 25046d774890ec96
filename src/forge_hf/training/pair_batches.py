# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of items and batches of pairs in turn, the same kind on every process at every step."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..data import ItemEmbeddings, ItemPairs, UserItemPairs


__all__ = ["ItemsAndPairs", "ItemsAndPairsSampler"]


class ItemsAndPairs(Dataset):
    """
    Items and, after them, pairs as one dataset whose batches are of one kind. Made for
    [`ItemsAndPairsSampler`], which gives the indices.

    Args:
        items ([`ItemEmbeddings`]):
            Items to reconstruct.
        pairs ([`ItemPairs`] or [`UserItemPairs`]):
            Pairs to contrast. Their items may be others.
    """

    def __init__(self, items: ItemEmbeddings, pairs: ItemPairs | UserItemPairs):
        self.items = items
        self.pairs = pairs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch, if it can't reach the sampler: after a resume on many processes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items) + len(self.pairs)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """One batch, of items or of pairs, as theirs give it."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices[0] < len(self.items):
            return self.items.__getitems__(indices)
        return self.pairs.__getitems__(indices - len(self.items))


class ItemsAndPairsSampler(Sampler):
    """
    Indices of [`ItemsAndPairs`], of which every `batch_size` that follow each other are of one kind.

    An epoch goes once through the items in random order. Batches of pairs are spread evenly between the batches of
    items, and go on in the next epoch where they stopped in this one. What doesn't fill a batch is left out, another
    part in each pass. The order depends on `seed` and epoch alone, and so is the same in every process and after a
    resume.

    Args:
        dataset ([`ItemsAndPairs`]):
            The items and pairs.
        batch_size (`int`):
            Number of items, or pairs, of a step, over all processes.
        ratio (`float`, *optional*):
            Number of batches of pairs for each batch of items. Defaults to what takes each pair once an epoch, as in
            FORGE (which shuffles the order of the two kinds).
        seed (`int`, *optional*, defaults to 0):
            Seed of the order.

    Raises:
        `ValueError`: if there are fewer items or pairs than a batch takes, or `ratio` isn't positive.
    """

    def __init__(self, dataset: ItemsAndPairs, batch_size: int, ratio: float | None = None, seed: int = 0):
        if ratio is not None and not 0 < ratio < float("inf"):
            raise ValueError(f"`pair_batch_ratio` must be positive, but is {ratio}.")
        for name, part in (("train_dataset", dataset.items), ("pairs", dataset.pairs)):
            if len(part) < batch_size:
                raise ValueError(
                    f"`{name}` has {len(part)} rows, fewer than the {batch_size} of a batch over all processes. Use a "
                    "smaller `per_device_train_batch_size`."
                )
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self.num_item_batches = len(dataset.items) // batch_size
        if ratio is None:
            self.num_pair_batches = len(dataset.pairs) // batch_size
        else:
            self.num_pair_batches = max(1, round(ratio * self.num_item_batches))

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return (self.num_item_batches + self.num_pair_batches) * self._batch_size

    def __iter__(self) -> Iterator[int]:
        numbers, epoch = (self.num_item_batches, self.num_pair_batches), self._dataset.epoch
        kinds = np.repeat([0, 1], numbers)
        places = np.concatenate([(np.arange(number) + 0.5) / number for number in numbers])
        streams = [self._batches(kind, epoch * numbers[kind]) for kind in (0, 1)]
        for kind in kinds[np.argsort(places, kind="stable")]:
            yield from next(streams[kind]).tolist()

    def _batches(self, kind: int, first: int) -> Iterator[np.ndarray]:
        """The batches of a kind from number `first` on, in passes that are each in an order of its own."""
        size, start = ((len(self._dataset.items), 0), (len(self._dataset.pairs), len(self._dataset.items)))[kind]
        batches_in_pass, order = size // self._batch_size, None
        for number in count(first):
            number_of_pass, place = divmod(number, batches_in_pass)
            if order is None or place == 0:
                order = np.random.default_rng([self._seed, kind, number_of_pass]).permutation(size)
            yield start + order[place * self._batch_size : (place + 1) * self._batch_size]
