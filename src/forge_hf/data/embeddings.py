# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item embeddings on disk, read in batches: item ids beside a memory-mapped table of vectors."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..checks import check_dataset, check_integer, check_type, shorten
from ..errors import DuplicateItemError, InvalidEmbeddingsError


READ_BATCH_SIZE = 65_536


class ItemEmbeddings(Dataset):
    r"""
    Item ids and their embeddings, as a dataset whose unit of reading is a batch.

    A `DataLoader` calls `__getitems__` once for a batch: the rows are read in order of the file in one go, as a slice
    where they are neighbours. Use it with `collate_fn=ItemEmbeddings.collate`.

    Args:
        embeddings (`torch.Tensor`, `np.ndarray` or any table with a `shape`, of shape `(num_items, dim)`):
            The vectors. A table that is neither a tensor nor an array must accept slices and increasing index arrays.
        item_ids (`Sequence[str | int]`, *optional*, defaults to `range(num_items)`):
            The id of each row, kept as given.

    Raises:
        [`InvalidEmbeddingsError`]: if `embeddings` doesn't have two dimensions or real numbers, or `item_ids` has
            another length.
        `TypeError`: if `embeddings` has no shape, or `item_ids` isn't a sequence of ids.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings

    >>> items = ItemEmbeddings(torch.eye(3), item_ids=["a", "b", "c"])
    >>> len(items), items.dim
    (3, 3)
    >>> items.__getitems__([2, 0])["embeddings"]
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    ```
    """

    def __init__(self, embeddings: Any, item_ids: Sequence[str | int] | None = None):
        if not isinstance(getattr(embeddings, "shape", None), tuple):
            raise TypeError(f"`embeddings` must be a tensor or an array, got {type(embeddings).__name__}.")
        if len(embeddings.shape) != 2:
            raise InvalidEmbeddingsError(
                f"`embeddings` must have shape (num_items, dim), but has shape {tuple(embeddings.shape)}."
            )
        if item_ids is None:
            item_ids = range(len(embeddings))
        check_type("item_ids", item_ids, Sequence, np.ndarray)
        if isinstance(item_ids, str):
            raise TypeError(f"`item_ids` must be a sequence of ids, got the single id {shorten(item_ids)}.")
        if not _is_real(getattr(embeddings, "dtype", None)):
            raise InvalidEmbeddingsError(f"`embeddings` must hold real numbers, but is {embeddings.dtype}.")
        if len(item_ids) != len(embeddings):
            raise InvalidEmbeddingsError(
                f"`item_ids` must name each of the {len(embeddings)} rows, but has {len(item_ids)} ids."
            )
        self._table = embeddings
        self.item_ids = item_ids

    @classmethod
    def from_file(
        cls, path: str | Path, item_ids: Sequence[str | int] | None = None, key: str = "embeddings"
    ) -> "ItemEmbeddings":
        """
        Opens a file without reading it into memory.

        Args:
            path (`str` or `Path`):
                - A `.safetensors` or `.npy` file (memory-mapped);
                - a `.parquet` file, `.arrow` file or folder of `Dataset.save_to_disk` with the columns `item_id` and
                  `embedding`, which `datasets` maps;
                - FORGE's `.npz` archive of items, as [`read_reconstruction_archive`] opens it;
                - AL-GR's Item-EMB, a `.csv` file or a folder of them, as [`read_item_embeddings`] reads it.

                What can't be mapped where it lies, CSV and compressed archives, is unpacked into the cache of
                `datasets` (`HF_DATASETS_CACHE`); CSV only once, as long as it doesn't change.
            item_ids (`Sequence[str | int]`, *optional*):
                The id of each row. Defaults to those of the file, or to `range(num_items)` where it has none.
            key (`str`, *optional*, defaults to `"embeddings"`):
                Name of the tensor in a `.safetensors` file.

        Raises:
            `FileNotFoundError`: if there is no such file.
            [`InvalidEmbeddingsError`]: if the file is of another kind, damaged, or lacks the tensor or column.
            [`CorruptFileError`], [`MalformedRowsError`]: as the readers of the last two.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"`path` {str(path)!r} does not exist.")
        if path.suffix == ".safetensors":
            return cls(_MappedTable(partial(_open_safetensors, path, key)), item_ids)
        if path.suffix == ".npy":
            return cls(_MappedTable(partial(_open_npy, path)), item_ids)
        tables = sorted(path.iterdir()) if path.is_dir() else [path]
        tables = [table for table in tables if ".csv" in table.suffixes[-2:]]
        if tables or path.suffix == ".npz":
            items = _read_item_emb(tables) if tables else _open_archive(path)
            return items if item_ids is None else cls(items._table, item_ids)
        from datasets import Dataset as ArrowDataset
        from datasets import load_from_disk

        from .damaged import refuse_damaged, validate_mapped

        if path.suffix not in (".arrow", ".parquet") and not path.is_dir():
            raise InvalidEmbeddingsError(
                "`path` must be a .safetensors, .npy, .parquet, .arrow, .npz or .csv file or a saved dataset, "
                f"but is {str(path)!r}."
            )
        with refuse_damaged(path, InvalidEmbeddingsError):
            if path.is_dir():
                dataset = load_from_disk(str(path))
            elif path.suffix == ".arrow":
                dataset = ArrowDataset.from_file(str(path))
            else:
                dataset = ArrowDataset.from_parquet(str(path))
            validate_mapped(dataset)
        items = cls.from_dataset(dataset)
        return items if item_ids is None else cls(items._table, item_ids)

    @classmethod
    def from_dataset(
        cls, dataset: Any, id_column: str = "item_id", embedding_column: str = "embedding"
    ) -> "ItemEmbeddings":
        """
        Reads from a `datasets.Dataset`, by slices of its Arrow memory map.

        Args:
            dataset (`datasets.Dataset`):
                One row an item.
            id_column (`str`, *optional*, defaults to `"item_id"`):
                Column of ids. Where the dataset has none, ids are `range(num_items)`.
            embedding_column (`str`, *optional*, defaults to `"embedding"`):
                Column of vectors, lists of equally many numbers.

        Raises:
            [`InvalidEmbeddingsError`]: if there is no embedding column, or it doesn't hold vectors.
        """
        check_dataset("dataset", dataset)
        if embedding_column not in dataset.column_names:
            raise InvalidEmbeddingsError(
                f"`embedding_column` {embedding_column!r} is not a column; the dataset has {dataset.column_names}."
            )
        kind = dataset.features.arrow_schema.field(embedding_column).type
        width = getattr(kind, "value_type", None)
        if width is None or not (pa.types.is_floating(width) or pa.types.is_integer(width)):
            raise InvalidEmbeddingsError(f"`embedding_column` {embedding_column!r} must hold vectors, but is {kind}.")
        item_ids = dataset[id_column][:] if id_column in dataset.column_names else None
        return cls(_ArrowTable(dataset, embedding_column), item_ids)

    def select(self, rows: Sequence[int]) -> "ItemEmbeddings":
        """
        Some of the items, read from the same table: those that occur in training, say.

        Args:
            rows (`Sequence[int]`):
                Row numbers, in the order that the items shall have.

        Raises:
            `TypeError`: if `rows` are not integers: a mask, say.
            `IndexError`: if a row number is not of this table.
        """
        rows = np.asarray(rows).reshape(-1)
        if len(rows) > 0 and rows.dtype.kind not in "iu":
            raise TypeError(f"`rows` must be row numbers, but are {rows.dtype}. Use `mask.nonzero()` for a mask.")
        rows = rows.astype(np.int64)
        if len(rows) > 0 and not (0 <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"`rows` must be in [0, {len(self)}), but span {rows.min()} to {rows.max()}.")
        return ItemEmbeddings(_SelectedRows(self, rows), [self.item_ids[row] for row in rows.tolist()])

    @classmethod
    def from_files(
        cls, paths: Sequence[str | Path], item_ids: Sequence[str | int] | None = None, key: str = "embeddings"
    ) -> "ItemEmbeddings":
        """
        Opens one file as [`~ItemEmbeddings.from_file`] does, or several whose tables are put side by side as
        [`~ItemEmbeddings.concatenate`] does.

        Args:
            paths (`Sequence[str | Path]`):
                The files, of any kind each.
            item_ids (`Sequence[str | int]`, *optional*):
                The id of each row, of the files that have none.
            key (`str`, *optional*, defaults to `"embeddings"`):
                Name of the tensor in `.safetensors` files.

        Raises:
            As [`~ItemEmbeddings.from_file`] and [`~ItemEmbeddings.concatenate`].
        """
        tables = [cls.from_file(path, key=key) for path in paths]
        if item_ids is not None:
            tables = [cls(table._table, item_ids) if isinstance(table.item_ids, range) else table for table in tables]
        return cls.concatenate(tables)

    @classmethod
    def concatenate(cls, tables: Sequence["ItemEmbeddings"]) -> "ItemEmbeddings":
        """
        Puts tables side by side: the embedding of an item is that of the first table, followed by those of the others,
        as an [`MMQModel`] takes the modalities of an item. Nothing is read yet, and what is read is read by slices of
        each table whose items are in the order of the first's.

        Args:
            tables (`Sequence[ItemEmbeddings]`):
                The first has the items of the result, in their order. The others have a row for each, in any order,
                and maybe for others. Rows are found by item id; `7` is `"7"` where one table's ids are integers and
                another's texts.

        Returns:
            [`ItemEmbeddings`] whose `dims` are the widths of the tables.

        Raises:
            `ValueError`: if there are no tables.
            `TypeError`: if one isn't [`ItemEmbeddings`].
            [`UnknownItemError`]: if a table lacks items of the first (the message gives the first few).
            [`DuplicateItemError`]: if an item id occurs twice in a table.

        Example:

        ```python
        >>> import torch
        >>> from forge_hf.data import ItemEmbeddings

        >>> text = ItemEmbeddings(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), item_ids=["a", "b"])
        >>> collaborative = ItemEmbeddings(torch.tensor([[5.0], [6.0]]), item_ids=["b", "a"])
        >>> items = ItemEmbeddings.concatenate([text, collaborative])
        >>> items.to_tensor()
        tensor([[1., 2., 6.],
                [3., 4., 5.]])
        >>> items.dims
        [2, 1]
        ```
        """
        from .concatenated_embeddings import concatenate_tables

        return concatenate_tables(list(tables))

    @property
    def dims(self) -> list[int]:
        """Width of each of the tables that stand side by side, as [`~ItemEmbeddings.concatenate`] puts them."""
        return list(getattr(self._table, "dims", [self.dim]))

    def join(self, **tables: "ItemEmbeddings") -> "ItemEmbeddings":
        """
        Puts further vectors beside the items, such as the collaborative vectors that a [`LetterModel`] is trained on.
        Batches hold them under the names given. Nothing is read yet.

        Args:
            tables ([`ItemEmbeddings`]):
                Tables that have a row for each of these items, in any order, and maybe for others. Rows are found by
                item id; `7` is `"7"` where one table's ids are integers and the other's texts.

        Returns:
            [`ItemEmbeddings`] of the same items, whose `tables` are those given and whose `select` and `validate` go
            for all of them.

        Raises:
            [`UnknownItemError`]: if a table lacks items (the message gives the first few).
            [`DuplicateItemError`]: if an item id occurs twice in a table.
            `TypeError`: if a table is not [`ItemEmbeddings`].

        Example:

        ```python
        >>> import torch
        >>> from forge_hf.data import ItemEmbeddings

        >>> vectors = ItemEmbeddings(torch.tensor([[5.0], [6.0]]), item_ids=["b", "a"])
        >>> items = ItemEmbeddings(torch.eye(2), item_ids=["a", "b"]).join(collaborative=vectors)
        >>> items[0]
        {'embeddings': tensor([1., 0.]), 'collaborative': tensor([6.])}
        ```
        """
        from .joined_embeddings import join_tables

        return join_tables(self, tables)

    @property
    def tables(self) -> dict[str, "ItemEmbeddings"]:
        """Further vectors of the items, by name: those of [`~ItemEmbeddings.join`]."""
        return {}

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def dim(self) -> int:
        return self._table.shape[1]

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"embeddings": self.__getitems__([index])["embeddings"][0]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """One batch, `{"embeddings": float32 tensor of shape (len(indices), dim)}`, in the order of `indices`."""
        rows, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(rows) == 0:
            return {"embeddings": torch.empty(0, self.dim)}
        if rows[0] < 0 or rows[-1] >= len(self):
            raise IndexError(f"`indices` must be in [0, {len(self)}), but span {rows[0]} to {rows[-1]}.")
        contiguous = rows[-1] - rows[0] + 1 == len(rows)
        table = self._read(slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows)
        return {"embeddings": table[torch.from_numpy(inverse)]}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The identity: `__getitems__` already gives a batch."""
        return batch

    def batches(self, batch_size: int = READ_BATCH_SIZE) -> Iterator[torch.Tensor]:
        """All embeddings in order, as float32 tensors of shape `(batch_size, dim)`; the last may be shorter."""
        check_integer("batch_size", batch_size)
        for start in range(0, len(self), batch_size):
            yield self._read(slice(start, min(start + batch_size, len(self))))

    def to_tensor(self) -> torch.Tensor:
        """All embeddings, float32 of shape `(num_items, dim)`."""
        return self._read(slice(0, len(self)))

    def validate(self, expected_dim: int | None = None) -> "ItemEmbeddings":
        """
        Reads everything once and returns itself if there is nothing wrong.

        Args:
            expected_dim (`int`, *optional*):
                The width that the embeddings must have.

        Raises:
            [`InvalidEmbeddingsError`]: if there are no items, the width is another, rows differ in width, or rows have
                NaN or infinite values (the message gives the rows).
            [`DuplicateItemError`]: if an item id occurs twice.
            `TypeError`: if an item id is neither `str` nor `int`.
        """
        if len(self) == 0 or self.dim == 0:
            raise InvalidEmbeddingsError(f"`embeddings` is empty: its shape is ({len(self)}, {self.dim}).")
        if expected_dim is not None and self.dim != expected_dim:
            raise InvalidEmbeddingsError(
                f"`embeddings` must have width {expected_dim}, but has width {self.dim}. "
                "Use the embeddings of the same encoder, or set `input_dim` of the model to this width."
            )
        self._check_ids()
        bad, start = [], 0
        for batch in tqdm(self.batches(), "Checking embeddings", -(-len(self) // READ_BATCH_SIZE), delay=5):
            bad.extend((start + (~batch.isfinite().all(dim=1)).nonzero()[:, 0]).tolist())
            start += len(batch)
        if bad:
            rows = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            raise InvalidEmbeddingsError(
                f"`embeddings` has NaN or infinite values in {len(bad)} of {len(self)} rows: {rows}. "
                "Remove these items or embed them again."
            )
        return self

    def _check_ids(self) -> None:
        if isinstance(self.item_ids, range):
            return
        others = [kind for kind in set(map(type, self.item_ids)) if not issubclass(kind, str | int | np.integer)]
        if others:
            raise TypeError(f"`item_ids` must be `str` or `int`, got {sorted(kind.__name__ for kind in others)}.")
        if len(set(self.item_ids)) == len(self):
            return
        seen, twice = set(), []
        for item_id in self.item_ids:
            if item_id in seen:
                twice.append(item_id)
            seen.add(item_id)
        raise DuplicateItemError(
            f"`item_ids` must be unique, but {len(twice)} ids occur again, such as "
            f"{', '.join(repr(item_id) for item_id in twice[:5])}. Keep one row an item."
        )

    def _read(self, rows: slice | np.ndarray) -> torch.Tensor:
        # Always a copy: a batch may be written to, the table may not.
        if isinstance(self._table, torch.Tensor) and not isinstance(rows, slice):
            rows = torch.from_numpy(rows)
        values = self._table[rows]
        if isinstance(values, torch.Tensor):
            return values.to("cpu", torch.float32, copy=True)
        return torch.from_numpy(np.array(values, dtype=np.float32))


def _is_real(dtype: Any) -> bool:
    if isinstance(dtype, torch.dtype):
        return not dtype.is_complex and dtype != torch.bool
    return dtype is None or np.dtype(dtype).kind in "fiu"


@contextmanager
def locked_cache_file(paths: Sequence[Path], suffix: str) -> Iterator[Path]:
    """
    Where `datasets` keeps its own: a name for the contents of files, another one when they change. Of all processes
    that ask for it at once, one comes after the other.
    """
    from datasets import config

    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    name = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]
    cache = Path(config.HF_DATASETS_CACHE) / "forge_hf" / f"{name}{suffix}"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):
        yield cache


def _read_item_emb(paths: Sequence[Path]) -> ItemEmbeddings:
    from .al_gr_embeddings import read_item_embeddings

    with locked_cache_file(paths, ".arrow") as cache:  # only the first reads the files
        return ItemEmbeddings.from_file(cache) if cache.exists() else read_item_embeddings(paths, cache)


def _open_archive(path: Path) -> ItemEmbeddings:
    from .al_gr_archives import read_reconstruction_archive

    with locked_cache_file([path], ".npy") as cache:
        return read_reconstruction_archive(path, extract_to=cache)


class _MappedTable:
    """
    A table in a file, which is mapped into memory for each read anew: pages that were read count as memory of the
    process for as long as their map lasts.
    """

    def __init__(self, open_table: Callable[[], np.ndarray | torch.Tensor]):
        self._open_table = open_table
        table = open_table()
        self.shape, self.dtype = tuple(table.shape), table.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray | torch.Tensor:
        table = self._open_table()
        if isinstance(table, torch.Tensor) and not isinstance(rows, slice):
            rows = torch.from_numpy(rows)
        return table[rows]


class _SelectedRows:
    """Some rows of [`ItemEmbeddings`] as a table."""

    def __init__(self, items: ItemEmbeddings, rows: np.ndarray):
        self._items, self._rows = items, rows
        self.shape, self.dims = (len(rows), items.dim), items.dims

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._items.__getitems__(self._rows[rows])["embeddings"].numpy()


class _ArrowTable:
    """A list column of a `datasets.Dataset` as a table: slices and index arrays of rows give `(rows, dim)` arrays."""

    def __init__(self, dataset: Any, column: str):
        self._dataset = dataset.select_columns([column]).with_format("arrow")
        self._column = column
        first = dataset[0][column] if len(dataset) else None
        self.shape = (len(dataset), 0 if first is None else len(first))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        import pyarrow.compute as pc

        column = self._dataset[rows].column(self._column).combine_chunks()
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != self.shape[1])  # a missing vector has length NaN
        if len(wrong) > 0:
            first = rows.start + wrong[0] if isinstance(rows, slice) else rows[wrong[0]]
            raise InvalidEmbeddingsError(
                f"Column {self._column!r} must hold vectors of one width ({self.shape[1]}, as in the first row), "
                f"but row {first} has another width or no vector."
            )
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])


def _open_npy(path: Path) -> np.ndarray:
    from .damaged import open_npy

    return open_npy(path, InvalidEmbeddingsError)


def _open_safetensors(path: Path, key: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if key not in file.keys():
                raise InvalidEmbeddingsError(
                    f"`key` {key!r} is not in {str(path)!r}, which has {sorted(file.keys())}."
                )
            return file.get_tensor(key)  # a view of the memory map, not a copy
    except (SafetensorError, OSError) as error:
        raise InvalidEmbeddingsError(f"{str(path)!r} is damaged or not a safetensors file: {error}") from error
