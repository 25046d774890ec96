# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Pairs of items that go together, as two rows of a table of embeddings each."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset as ArrowDataset
from torch.utils.data import Dataset

from ..checks import check_type
from ..errors import CorruptFileError, UnknownItemError
from .al_gr import read_origin_behavior
from .damaged import is_unicode, open_npy
from .embeddings import ItemEmbeddings, locked_cache_file
from .exact_csv import read_header, read_texts
from .malformed import MalformedRows
from .sequences import _load, _parse, adjacent_pairs, leave_one_out, read_sequences


__all__ = ["ItemPairs", "find_rows", "like_ids", "read_pairs", "read_table", "read_training_sequences", "rows_of"]


class ItemPairs(Dataset):
    r"""
    Pairs of items that users had together, over their embeddings: what the contrastive loss of an [`RQVAEModel`]
    learns from. As [`ItemEmbeddings`], a dataset whose unit of reading is a batch.

    Args:
        items ([`ItemEmbeddings`]):
            The items.
        pairs (`np.ndarray`, `torch.Tensor` or `Sequence` of shape `(num_pairs, 2)`):
            Item ids. Pairs of an item with itself are left out; one warning says how many.

    Attributes:
        rows (`np.ndarray` of shape `(num_pairs, 2)`):
            The rows of `items`, int32 where that is enough.

    Raises:
        [`UnknownItemError`]: if a pair names an item that isn't in `items` (the message gives the first few).
        `ValueError`: if `pairs` isn't of shape `(num_pairs, 2)`, or holds no pair of two items.
        `TypeError`: if ids are neither all strings nor all integers, or `items` aren't [`ItemEmbeddings`].

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings, ItemPairs

    >>> items = ItemEmbeddings(torch.eye(3), item_ids=["a", "b", "c"])
    >>> pairs = ItemPairs(items, [["c", "a"], ["b", "c"]])
    >>> pairs.rows.tolist()
    [[2, 0], [1, 2]]
    >>> pairs.__getitems__([0])
    {'embeddings': tensor([[0., 0., 1.]]), 'positives': tensor([[1., 0., 0.]])}
    ```
    """

    def __init__(self, items: ItemEmbeddings, pairs: Any):
        check_type("items", items, ItemEmbeddings)
        ids = pairs.numpy(force=True) if isinstance(pairs, torch.Tensor) else pairs
        # As objects, ids of a list stay what they are: `[["a", 1]]` isn't made texts, nor a ragged list an error.
        ids = ids if isinstance(ids, np.ndarray) else np.array(ids, dtype=object)
        _check_shape(ids)
        self._set(items, rows_of(items, ids.reshape(-1)).reshape(-1, 2))

    @classmethod
    def from_rows(cls, items: ItemEmbeddings, rows: Any) -> "ItemPairs":
        """
        Pairs given as rows of `items`, not as ids.

        Args:
            items ([`ItemEmbeddings`]):
                The items.
            rows (`np.ndarray` or `torch.Tensor` of shape `(num_pairs, 2)`):
                Row numbers.

        Raises:
            `IndexError`: if a row lies outside `items`.
        """
        check_type("items", items, ItemEmbeddings)
        rows = rows.numpy(force=True) if isinstance(rows, torch.Tensor) else rows
        _check_shape(rows if isinstance(rows, np.ndarray) else np.array(rows, dtype=object))
        rows = np.asarray(rows)
        if not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"`rows` must be integers, but is {rows.dtype}.")
        if rows.min() < 0 or rows.max() >= len(items):
            raise IndexError(f"`rows` must be in [0, {len(items)}), but span {rows.min()} to {rows.max()}.")
        pairs = cls.__new__(cls)
        pairs._set(items, rows)
        return pairs

    @classmethod
    def from_sequences(cls, items: ItemEmbeddings, sequences: ArrowDataset) -> "ItemPairs":
        """
        The items that stand side by side in a sequence, each unordered pair once.

        Args:
            items ([`ItemEmbeddings`]):
                The items.
            sequences (`datasets.Dataset`):
                Columns `user_id` and `items`, as [`read_sequences`] returns. Give those to train on: `["train"]` of
                [`leave_one_out`].

        Raises:
            [`UnknownItemError`]: if a sequence names an item that isn't in `items`.
            `ValueError`: if no two different items stand side by side.
        """
        ids = adjacent_pairs(sequences)
        ids = ids[ids[:, 0] != ids[:, 1]]
        if len(ids) == 0:
            raise ValueError("`sequences` has no two different items side by side.")
        rows = rows_of(items, ids.reshape(-1)).reshape(-1, 2).astype(np.int64)
        keys = np.unique(rows.min(axis=1) * len(items) + rows.max(axis=1))
        pairs = np.stack(np.divmod(keys, len(items)), axis=1)
        return cls.from_rows(items, pairs)

    @classmethod
    def from_file(cls, items: ItemEmbeddings, path: str | os.PathLike) -> "ItemPairs":
        """
        Reads pairs of item ids.

        Args:
            items ([`ItemEmbeddings`]):
                The items. Not those of an archive, which has its own.
            path (`str` or `os.PathLike`):
                FORGE's `.npz` archive of pairs, as [`read_contrastive_archive`] opens it (a compressed one is unpacked
                into the cache of `datasets`); a `.npy` file of shape `(num_pairs, 2)`; or a `.parquet`, `.json`,
                `.jsonl`, `.csv`, `.tsv` or `.arrow` file, a folder written by [`~datasets.Dataset.save_to_disk`], or a
                dataset of the Hub (its `train` split), with two columns. Ids in CSV are texts. Where those of the file
                are texts and those of `items` integers, or the other way round, `7` is `"7"`.

        Raises:
            `FileNotFoundError`: if there is no such file.
            [`CorruptFileError`]: if it is damaged.
            [`UnknownItemError`]: if a pair names an item that isn't in `items`.
            [`MalformedRowsError`]: if too many rows of a CSV file are malformed.
            `ValueError`: if it has more or fewer columns than two, or an id is missing.
        """
        check_type("items", items, ItemEmbeddings)
        if Path(path).suffix == ".npz":
            return _open_archive(Path(path))
        rows = [rows_of(items, column) for column in read_pairs(path, items.item_ids)]
        return cls.from_rows(items, np.stack(rows, axis=1))

    def _set(self, items: ItemEmbeddings, rows: np.ndarray) -> None:
        different = rows[:, 0] != rows[:, 1]
        dropped = len(rows) - int(different.sum())
        if dropped == len(rows):
            raise ValueError(f"`pairs` holds no pair of two different items among {len(rows)}.")
        if dropped:
            warnings.warn(f"Left out {dropped} of {len(rows)} pairs: an item with itself.", stacklevel=3)
            rows = rows[different]
        self.items = items
        self.rows = rows.astype(np.int32 if len(items) <= np.iinfo(np.int32).max else np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """One batch, `embeddings` and `positives` of shape `(len(indices), dim)`, in the order of `indices`."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        embeddings, positives = self.items.__getitems__(rows.T.reshape(-1))["embeddings"].split(max(len(rows), 1))
        return {"embeddings": embeddings, "positives": positives}


def read_pairs(path: str | os.PathLike, item_ids: Sequence[str] | Sequence[int]) -> list[pa.Array]:
    """
    Reads pairs of item ids.

    Args:
        path (`str` or `os.PathLike`):
            As in [`ItemPairs.from_file`].
        item_ids (`Sequence[str]` or `Sequence[int]`):
            Known ids: those of the file become texts or integers as these are, where both are written alike.

    Returns:
        `list[pa.Array]`: the left and the right id of each pair.

    Raises:
        As [`ItemPairs.from_file`], except that items may be unknown.
    """
    path = Path(path)
    if path.suffix == ".npy":
        pairs = open_npy(path)
        if pairs.dtype.kind not in "iuU" or not is_unicode(pairs):
            raise CorruptFileError(f"{str(path)!r} must hold an array of item ids, texts or integers.")
        _check_shape(pairs)
        columns = [pa.array(column) for column in pairs.T]
    elif path.suffix == ".npz":
        pairs = _open_archive(path)
        known = _id_array(pairs.items.item_ids)
        columns = [known.take(pa.array(rows)) for rows in pairs.rows.T]
    else:
        table = read_table(path)
        if table.num_columns != 2:
            raise ValueError(f"{path} must have two columns of item ids, but has {table.column_names}.")
        columns = [column.combine_chunks() for column in table.columns]
    for ids in columns:
        if len(ids) == 0 or ids.null_count or not (pa.types.is_integer(ids.type) or _is_text(ids.type)):
            raise ValueError(
                f"{path} must have two columns of item ids, strings or integers, none missing; got {len(ids)} of the "
                f"type {ids.type}, {ids.null_count} missing."
            )
    return [like_ids(ids, item_ids) for ids in columns]


def read_training_sequences(path: str | os.PathLike) -> ArrowDataset:
    """
    Reads what is for training, to take pairs from.

    Args:
        path (`str` or `os.PathLike`):
            The histories of AL-GR's `origin_behavior`, a CSV file that [`read_origin_behavior`] reads; or what
            [`read_sequences`] reads, of which [`leave_one_out`] leaves each user's last two items out.

    Returns:
        [`~datasets.Dataset`] with the columns `user_id` and `items`.
    """
    path = Path(path)
    if ".csv" in path.suffixes[-2:] and "user_history" in read_header(path):
        histories = read_origin_behavior(path).data.column("history")
        return ArrowDataset(pa.table({"user_id": np.arange(len(histories)), "items": histories}))
    return leave_one_out(read_sequences(path))["train"]


def read_table(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pa.Table:
    """
    Reads a file of any form of [`ItemPairs.from_file`] that has columns. All values of CSV are texts.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        columns (`Sequence[str]`, *optional*):
            Those to read, by default all.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it lacks a column.
        [`MalformedRowsError`]: if too many rows of a CSV file are malformed.
    """
    path = Path(path)
    delimiter = next((sign for kind, sign in ((".csv", ","), (".tsv", "\t")) if kind in path.suffixes[-2:]), None)
    dataset = _load(path) if delimiter is None else None
    names = read_header(path, delimiter) if dataset is None else dataset.column_names
    columns = names if columns is None else list(columns)
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{str(path)!r} lacks the columns {missing}; it has {names}.")
    if dataset is not None:
        return dataset.select_columns(columns).with_format("arrow")[:]
    malformed = MalformedRows(source=str(path))
    empty = pa.table({name: pa.array([], pa.string()) for name in columns})
    tables = [batch.table for batch in read_texts(path, columns, malformed, delimiter, title=f"Reading {path.name}")]
    malformed.report()
    return pa.concat_tables([empty, *tables])


def like_ids(ids: Any, item_ids: Sequence[str] | Sequence[int]) -> pa.Array:
    """Ids as texts or integers as others are, where each can be written as the other: `7` and `"7"`, not `"007"`."""
    ids = _id_array(ids)
    if pa.types.is_integer(ids.type) and not pa.types.is_integer(_id_array(item_ids[:1]).type):
        return ids.cast(pa.large_string())
    return _parse(ids) if _is_text(ids.type) and pa.types.is_integer(_id_array(item_ids[:1]).type) else ids


def _open_archive(path: Path) -> ItemPairs:
    from .al_gr_archives import read_contrastive_archive

    with locked_cache_file([path], ".npy") as cache:
        return read_contrastive_archive(path, extract_to=cache)


def _check_shape(pairs: np.ndarray) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"`pairs` must have shape (num_pairs, 2) with at least one pair, but has {pairs.shape}.")


def rows_of(items: ItemEmbeddings, ids: np.ndarray | pa.Array, name: str = "items") -> np.ndarray:
    """The row of each id; `name` is what an error calls the table."""
    rows = find_rows(items.item_ids, ids)
    if rows.null_count:
        missing = _id_array(ids).filter(rows.is_null()).unique()
        first = ", ".join(repr(item) for item in missing[:5].to_pylist())
        more = ", …" if len(missing) > 5 else ""
        raise UnknownItemError(f"{len(missing)} {name} of the pairs are not in `{name}`: {first}{more}.")
    return rows.to_numpy()


def find_rows(item_ids: Sequence[str] | Sequence[int], ids: np.ndarray | pa.Array) -> pa.Array:
    """
    The place of each id in `item_ids`, found by a hash table of Arrow's; null where it isn't there.

    Raises:
        [`UnknownItemError`]: if these are texts and those integers, or the other way round.
    """
    known, wanted = _id_array(item_ids), _id_array(ids)
    if known.type != wanted.type:
        raise UnknownItemError(
            f"Ids of `items` are {known.type}, such as {known[0].as_py()!r}, but those of the pairs are "
            f"{wanted.type}, such as {wanted[0].as_py()!r}."
        )
    return pc.index_in(wanted, value_set=known)


def _id_array(ids: Any) -> pa.Array:
    if isinstance(ids, range):
        ids = np.arange(ids.start, ids.stop, ids.step)
    try:
        array = ids if isinstance(ids, pa.Array) else pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError) as error:
        raise TypeError(f"Item ids of `pairs` and `items` must be all strings or all integers: {error}") from error
    if array.null_count or not (pa.types.is_integer(array.type) or _is_text(array.type)):
        raise TypeError(
            f"Item ids of `pairs` and `items` must be strings or integers, none missing; got the type {array.type} "
            f"and {array.null_count} missing ones."
        )
    return array.cast(pa.int64() if pa.types.is_integer(array.type) else pa.large_string())


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
