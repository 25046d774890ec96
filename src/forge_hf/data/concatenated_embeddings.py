# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of item embeddings side by side, with rows found by item id."""

import numpy as np
import torch

from .embeddings import ItemEmbeddings
from .joined_embeddings import in_order_of


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
    others = [in_order_of(first, table, f"tables[{number}]") for number, table in enumerate(others, start=1)]
    return ItemEmbeddings(ConcatenatedTable([first, *others]), first.item_ids)


__all__ = ["ConcatenatedTable"]
