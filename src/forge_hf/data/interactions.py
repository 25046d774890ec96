# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Interactions of users and items, as batches of what both are known by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset as ArrowDataset
from torch.utils.data import Dataset

from .embeddings import ItemEmbeddings
from .pairs import rows_of
from .sequences import items_by_user


class UserItemPairs(Dataset):
    r"""
    Pairs of a user and an item that the user had, over embeddings and collaborative vectors of both: what a
    [`DASModel`] learns from. As [`ItemEmbeddings`], a dataset whose unit of reading is a batch.

    With each pair come another item of the same user and another user of the same item, those that follow in the order
    of `interactions` (after the last, the first).

    Args:
        users ([`ItemEmbeddings`]):
            The users, with a table `collaborative`: `users.join(collaborative=...)`.
        items ([`ItemEmbeddings`]):
            The items, with a table `collaborative` of the same width.
        interactions (`np.ndarray`, `torch.Tensor` or `Sequence` of shape `(num_pairs, 2)`, or a pair of `Sequence`s):
            User ids and item ids, either as rows or, where users' ids are texts and items' integers, say, as a tuple
            of two columns. A pair that occurs again is left out.

    Attributes:
        rows (`np.ndarray` of shape `(num_pairs, 2)`):
            The rows of `users` and `items`.

    Raises:
        [`UnknownItemError`]: if a pair names an unknown user or item (the message gives the first few).
        `ValueError`: if a table lacks collaborative vectors or has others than the other, or there is no pair.
        `TypeError`: if `users` or `items` aren't [`ItemEmbeddings`].

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings, UserItemPairs

    >>> vectors = ItemEmbeddings(torch.randn(3, 4), item_ids=["a", "b", "c"])
    >>> items = ItemEmbeddings(torch.eye(3), item_ids=["a", "b", "c"]).join(collaborative=vectors)
    >>> users = ItemEmbeddings(torch.randn(2, 5)).join(collaborative=ItemEmbeddings(torch.randn(2, 4)))
    >>> pairs = UserItemPairs(users, items, ([0, 0, 1], ["a", "c", "c"]))
    >>> batch = pairs.__getitems__([0])
    >>> batch["embeddings"], batch["item_rows"], batch["user_rows"]
    (tensor([[1., 0., 0.]]), tensor([[0, 2]]), tensor([[ 0, -1]]))
    ```
    """

    def __init__(self, users: ItemEmbeddings, items: ItemEmbeddings, interactions: Any):
        for name, table in (("users", users), ("items", items)):
            if not isinstance(table, ItemEmbeddings):
                raise TypeError(f"`{name}` must be ItemEmbeddings, but is {type(table).__name__}.")
            if "collaborative" not in table.tables:
                raise ValueError(f"`{name}` must have collaborative vectors: `{name}.join(collaborative=...)`.")
        widths = [table.tables["collaborative"].dim for table in (users, items)]
        if widths[0] != widths[1]:
            raise ValueError(f"Collaborative vectors of `users` and `items` must be of one width, but have {widths}.")
        if not isinstance(interactions, tuple):
            interactions = interactions.numpy(force=True) if isinstance(interactions, torch.Tensor) else interactions
            interactions = np.asarray(interactions)
            if interactions.ndim != 2 or interactions.shape[1] != 2:
                raise ValueError(f"`interactions` must have shape (num_pairs, 2), but has {interactions.shape}.")
            interactions = tuple(interactions.T)
        user_ids, item_ids = interactions
        if len(user_ids) != len(item_ids) or len(user_ids) == 0:
            raise ValueError(
                "`interactions` must give a user and an item to each of one or more pairs, but has "
                f"{len(user_ids)} users and {len(item_ids)} items."
            )
        self.users, self.items = users, items
        rows = np.stack([rows_of(users, user_ids, "users"), rows_of(items, item_ids, "items")], axis=1)
        _, first = np.unique(rows[:, 0].astype(np.int64) * len(items) + rows[:, 1], return_index=True)
        self.rows = rows[np.sort(first)].astype(np.int64)
        others = [_next_of_same(self.rows[:, 0]), _next_of_same(self.rows[:, 1])]
        # Of each pair: the other user of the item, the other item of the user.
        self._other_rows = np.stack(
            [
                np.where(others[1] < 0, -1, self.rows[others[1], 0]),
                np.where(others[0] < 0, -1, self.rows[others[0], 1]),
            ],
            axis=1,
        )

    @classmethod
    def from_sequences(cls, users: ItemEmbeddings, items: ItemEmbeddings, sequences: ArrowDataset) -> "UserItemPairs":
        """
        Each user with each item of the user's sequence.

        Args:
            users ([`ItemEmbeddings`]):
                The users.
            items ([`ItemEmbeddings`]):
                The items.
            sequences (`datasets.Dataset`):
                Columns `user_id` and `items`, as [`read_sequences`] returns. Give those to train on: `["train"]` of
                [`leave_one_out`].
        """
        return cls(users, items, items_by_user(sequences))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """One batch: the arguments of [`DASModel.forward`], in the order of `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        batch = {}
        for column, (name, table) in enumerate((("user", self.users), ("item", self.items))):
            rows, others = self.rows[indices, column], self._other_rows[indices, column]
            own = table.__getitems__(rows)
            other = table.tables["collaborative"].__getitems__(others.clip(min=0))["embeddings"]
            batch["user_embeddings" if name == "user" else "embeddings"] = own["embeddings"]
            batch[f"{name}_collaborative"] = torch.stack([own["collaborative"], other], dim=1)
            batch[f"{name}_rows"] = torch.from_numpy(np.stack([rows, others], axis=1))
        return batch


def _next_of_same(groups: np.ndarray) -> np.ndarray:
    """The place of the next entry that is equal to each, after the last the first; -1 where there is no other."""
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    starts, counts = np.repeat(starts, counts), np.repeat(counts, counts)
    following = starts + (np.arange(len(groups)) - starts + 1) % counts
    result = np.empty_like(order)
    result[order] = np.where(counts > 1, order[following], -1)
    return result


__all__ = ["UserItemPairs"]
