# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Items and codes as a `datasets.Dataset` with the columns of AL-GR's Item-SID."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_dataset
from ..errors import InvalidCodesError


if TYPE_CHECKING:
    from datasets import Dataset


__all__ = ["item_sid_columns", "read_item_sid"]


def item_sid_columns(num_levels: int) -> list[str]:
    """Names of the columns that hold codes."""
    return [f"codebook_lv{level + 1}" for level in range(num_levels)]


def read_item_sid(dataset: "Dataset", num_levels: int) -> tuple[list[str] | list[int], np.ndarray]:
    """
    Item ids and codes of the rows that have codes; one warning says how many have none.

    Args:
        dataset (`datasets.Dataset`):
            Items, with the columns `item_id` (or `base62_string`, as AL-GR has it), `codebook_lv1`, `codebook_lv2`,
            ... Other columns are left alone.
        num_levels (`int`):
            How many `codebook_lv` columns there must be.

    Returns:
        `tuple`: ids, and codes of dtype int64 and shape `(num_items, num_levels)`.

    Raises:
        [`InvalidCodesError`]: A column is missing, a code isn't an integer, or no row has codes.
    """
    check_dataset("dataset", dataset)
    levels = item_sid_columns(num_levels)
    id_column = "item_id" if "item_id" in dataset.column_names else "base62_string"
    present = [name for name in dataset.column_names if name == id_column or name.startswith("codebook_lv")]
    if set(present) != {id_column, *levels}:
        raise InvalidCodesError(
            f"`dataset` must have the columns {['item_id', *levels]} for {len(levels)} `codebook_sizes`, "
            f"got {present}."
        )
    import pyarrow as pa

    table = dataset.select_columns([id_column, *levels]).with_format("arrow")[:]
    null = np.zeros(len(table), dtype=bool)
    for name in levels:
        null |= table[name].is_null(nan_is_null=True).to_numpy()
    if table[id_column].null_count or null.all():
        raise InvalidCodesError(
            f"`dataset` has {table[id_column].null_count} rows without an item id and {null.sum()} without codes, "
            f"of {len(table)}. Every row needs an id, and one row at least needs codes."
        )
    if null.any():
        warnings.warn(f"Left out {null.sum()} of {len(table)} items: they have no codes.", stacklevel=3)
        table = table.filter(pa.array(~null))
    columns = [table[name].to_numpy() for name in levels]
    for name, column in zip(levels, columns, strict=True):
        # A column with gaps is read from CSV as floating point.
        if column.dtype.kind == "f" and null.any() and (column == np.round(column)).all():
            continue
        if column.dtype.kind not in "iu":
            raise InvalidCodesError(f"`dataset` must hold integers in {name}, got {column.dtype}.")
    return table[id_column].to_pylist(), np.stack(columns, axis=1).astype(np.int64)
