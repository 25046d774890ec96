# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item embeddings beside further vectors of the same items, found by item id."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import InvalidEmbeddingsError, UnknownItemError
from .embeddings import READ_BATCH_SIZE, ItemEmbeddings
from .pairs import find_rows, like_ids


class JoinedEmbeddings(ItemEmbeddings):
    """
    What [`ItemEmbeddings.join`] makes: item embeddings whose batches hold further vectors of the same items.

    Attributes:
        tables (`dict[str, ItemEmbeddings]`):
            The further vectors, row by row of the same items.
    """

    def __init__(self, items: ItemEmbeddings, tables: dict[str, ItemEmbeddings]):
        super().__init__(items._table, items.item_ids)
        self._tables = tables

    @property
    def tables(self) -> dict[str, ItemEmbeddings]:
        return self._tables

    def select(self, rows: Sequence[int]) -> "JoinedEmbeddings":
        """As [`ItemEmbeddings.select`], of every table."""
        tables = {name: table.select(rows) for name, table in self.tables.items()}
        # Not of itself, whose batches read every table.
        return JoinedEmbeddings(ItemEmbeddings(self._table, self.item_ids).select(rows), tables)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """As [`ItemEmbeddings.__getitems__`], with the rows of each table under its name."""
        tables = {name: table.__getitems__(indices)["embeddings"] for name, table in self.tables.items()}
        return super().__getitems__(indices) | tables

    def validate(self, expected_dim: int | None = None) -> "JoinedEmbeddings":
        """As [`ItemEmbeddings.validate`], of every table; the message names the table and items."""
        super().validate(expected_dim)
        for name, table in self.tables.items():
            bad = list(_not_finite(table))
            if bad:
                ids = ", ".join(repr(self.item_ids[row]) for row in bad[:5]) + (", …" if len(bad) > 5 else "")
                raise InvalidEmbeddingsError(
                    f"`{name}` has NaN or infinite values for {len(bad)} of {len(self)} items: {ids}."
                )
        return self


def join_tables(items: ItemEmbeddings, tables: dict[str, ItemEmbeddings]) -> JoinedEmbeddings:
    """[`ItemEmbeddings.join`]."""
    aligned = dict(items.tables)
    for name, table in tables.items():
        if not isinstance(table, ItemEmbeddings):
            raise TypeError(f"`{name}` must be ItemEmbeddings, but is {type(table).__name__}.")
        if name == "embeddings":
            raise ValueError("`embeddings` is the name of the items' own table: use another one.")
        table._check_ids()
        aligned[name] = in_order_of(items, table, name)
    return JoinedEmbeddings(items, aligned)


def in_order_of(items: ItemEmbeddings, table: ItemEmbeddings, name: str) -> ItemEmbeddings:
    """The rows of a table that are the items', in their order. `name` is what an error calls the table."""
    if len(items) == 0 or len(table) == 0:
        raise InvalidEmbeddingsError(f"`{name}` has {len(table)} rows, for {len(items)} items.")
    try:
        rows = find_rows(table.item_ids, like_ids(items.item_ids, table.item_ids))
    except UnknownItemError as error:
        raise UnknownItemError(
            f"`{name}` has ids such as {table.item_ids[0]!r}, but the items have ids such as {items.item_ids[0]!r}."
        ) from error
    if rows.null_count:
        missing = np.flatnonzero(rows.is_null())
        ids = ", ".join(repr(items.item_ids[row]) for row in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise UnknownItemError(
            f"`{name}` lacks {len(missing)} of {len(items)} items: {ids}. Give them a row there, or leave them out of "
            "the items with `select`."
        )
    rows = rows.to_numpy()
    same = len(table) == len(items) and np.array_equal(rows, np.arange(len(items)))
    return table if same else table.select(rows)


def _not_finite(table: ItemEmbeddings) -> Iterator[int]:
    start = 0
    for batch in tqdm(table.batches(), "Checking vectors", -(-len(table) // READ_BATCH_SIZE), delay=5):
        yield from (start + (~batch.isfinite().all(dim=1)).nonzero()[:, 0]).tolist()
        start += len(batch)


__all__ = ["JoinedEmbeddings"]
