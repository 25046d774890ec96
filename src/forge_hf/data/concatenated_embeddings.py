# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of item embeddings side by side, with rows found by item id."""

import numpy as np
import torch

from ..errors import InvalidEmbeddingsError, UnknownItemError
from .embeddings import ItemEmbeddings
from .pairs import find_rows, like_ids


class ConcatenatedTable:
    """Tables of the same items in the same order, as one table."""

    def __init__(self, tables: list[ItemEmbeddings]):
        self._tables = tables
        self.dims = [dim for table in tables for dim in table.dims]
        self.shape = (len(tables[0]), sum(self.dims))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> torch.Tensor:
        return torch.cat([table._read(rows) for table in self._tables], dim=1)


def concatenate_tables(tables: list[ItemEmbeddings]) -> ItemEmbeddings:
    """[`ItemEmbeddings.concatenate`]."""
    if not tables:
        raise ValueError("`tables` must have at least one table, but is empty.")
    for number, table in enumerate(tables):
        if not isinstance(table, ItemEmbeddings):
            raise TypeError(
                f"`tables[{number}]` must be ItemEmbeddings, but is {type(table).__name__}. "
                "Use ItemEmbeddings.from_file, say."
            )
    if len(tables) == 1:
        return tables[0]
    for table in tables:
        table._check_ids()
    first, *others = tables
    others = [_in_order_of(first, table, f"tables[{number}]") for number, table in enumerate(others, start=1)]
    return ItemEmbeddings(ConcatenatedTable([first, *others]), first.item_ids)


def _in_order_of(items: ItemEmbeddings, table: ItemEmbeddings, name: str) -> ItemEmbeddings:
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
            "the first table with `select`."
        )
    rows = rows.to_numpy()
    same = len(table) == len(items) and np.array_equal(rows, np.arange(len(items)))
    return table if same else table.select(rows)


__all__ = ["ConcatenatedTable"]
