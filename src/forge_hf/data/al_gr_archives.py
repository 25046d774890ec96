# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The `.npz` archives that FORGE trains its item tokenizer on, mapped from where they lie and never unpickled."""

import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..checks import check_type
from ..errors import CorruptFileError, DuplicateItemError, InvalidEmbeddingsError
from ..hub.writing import lock_file, write_then_rename
from .damaged import is_unicode
from .embeddings import READ_BATCH_SIZE, ItemEmbeddings
from .object_array import read_object_array
from .pairs import ItemPairs


__all__ = [
    "read_contrastive_archive",
    "read_reconstruction_archive",
    "write_contrastive_archive",
    "write_reconstruction_archive",
]

_CHUNK = 1 << 24
# What is read into memory may have been packed so many times smaller: enough for tables of ids, and no bomb.
_MAX_RATIO = 100


def read_reconstruction_archive(
    path: str | os.PathLike, extract_to: str | os.PathLike | None = None
) -> ItemEmbeddings:
    """
    Opens FORGE's `reconstruct_data_mask.npz`: items and their embeddings.

    The embeddings of an archive that isn't compressed (of `np.savez`) are mapped from where they lie in it, and take
    no memory.

    Args:
        path (`str` or `os.PathLike`):
            An archive of `ids`, of shape `(num_items,)`, and `embeds`, of shape `(num_items, dim)`.
        extract_to (`str` or `os.PathLike`, *optional*):
            `.npy` file to unpack the embeddings of a compressed archive (of `np.savez_compressed`) to, and to map them
            from. Needed for nothing else.

    Returns:
        [`ItemEmbeddings`]

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it isn't such an archive, is damaged, or holds a pickle of anything but texts and
            integers.
        [`InvalidEmbeddingsError`]: if `embeds` aren't floating-point vectors, one for each id.
        `ValueError`: if the archive is compressed and `extract_to` isn't given.

    Example:

    ```python
    >>> import tempfile
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings, read_reconstruction_archive, write_reconstruction_archive

    >>> path = tempfile.mkdtemp() + "/reconstruct_data_mask.npz"
    >>> write_reconstruction_archive(ItemEmbeddings(torch.eye(3), item_ids=["007", "b", "NA"]), path)
    >>> items = read_reconstruction_archive(path)
    >>> items.item_ids, items.dim
    (['007', 'b', 'NA'], 3)
    ```
    """
    with _Archive(Path(path), ("ids", "embeds")) as archive:
        ids = archive.array("ids")
        embeddings = archive.table("embeds", extract_to)
    if ids.ndim != 1 or len(ids) != len(embeddings):
        raise InvalidEmbeddingsError(
            f"{path} must have an id for each of the {len(embeddings)} rows of `embeds`, but `ids` has shape "
            f"{ids.shape}."
        )
    return ItemEmbeddings(embeddings, ids.tolist())


def read_contrastive_archive(path: str | os.PathLike, extract_to: str | os.PathLike | None = None) -> ItemPairs:
    """
    Opens FORGE's `contrastive_data_mask.npz`: pairs of items that users had together, and their embeddings.

    The dictionary in it is a pickle. It is read without unpickling: no archive can run code. The embeddings are mapped
    as those of [`read_reconstruction_archive`] are.

    Args:
        path (`str` or `os.PathLike`):
            An archive of `itemEncID`, a dictionary from item ids to rows, `pairs`, of shape `(num_pairs, 2)`, of item
            ids, and `embeds`, of shape `(num_rows, dim)`.
        extract_to (`str` or `os.PathLike`, *optional*):
            As in [`read_reconstruction_archive`].

    Returns:
        [`ItemPairs`]: its `items` are those of the dictionary, in the order of their rows.

    Raises:
        [`UnknownItemError`]: if a pair names an item that the dictionary doesn't.
        As [`read_reconstruction_archive`].

    Example:

    ```python
    >>> import tempfile
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings, ItemPairs, read_contrastive_archive, write_contrastive_archive

    >>> items = ItemEmbeddings(torch.eye(3), item_ids=["007", "b", "NA"])
    >>> path = tempfile.mkdtemp() + "/contrastive_data_mask.npz"
    >>> write_contrastive_archive(ItemPairs(items, [["NA", "007"]]), path)
    >>> read_contrastive_archive(path).__getitems__([0])
    {'embeddings': tensor([[0., 0., 1.]]), 'positives': tensor([[1., 0., 0.]])}
    ```
    """
    with _Archive(Path(path), ("itemEncID", "pairs", "embeds")) as archive:
        row_of, pairs = archive.array("itemEncID"), archive.array("pairs")
        embeddings = archive.table("embeds", extract_to)
    if row_of.shape != () or not isinstance(row_of.item(), dict) or not row_of.item():
        raise CorruptFileError(f"`itemEncID` of {path} must be a dictionary from item ids to rows.")
    row_of = row_of.item()
    if len(set(map(type, row_of))) > 1 or set(map(type, row_of.values())) != {int}:
        raise CorruptFileError(f"`itemEncID` of {path} must lead from texts, or from integers, to integers.")
    rows = np.fromiter(row_of.values(), np.int64, len(row_of))
    if rows.min() < 0 or rows.max() >= len(embeddings):
        raise CorruptFileError(
            f"`itemEncID` of {path} names the rows {rows.min()} to {rows.max()}, but `embeds` has {len(embeddings)}."
        )
    item_ids = np.fromiter(row_of, object, len(row_of))
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    # Two items may share a row, and a row may be nobody's: FORGE's own reader allows both.
    if len(rows) != len(embeddings) or (rows != np.arange(len(rows))).any():
        embeddings = _Rows(embeddings, rows)
    if pairs.dtype.kind == "O":
        pairs = np.array(pairs.tolist())
    return ItemPairs(ItemEmbeddings(embeddings, item_ids[order].tolist()), pairs)


def write_reconstruction_archive(items: ItemEmbeddings, path: str | os.PathLike) -> None:
    """
    Writes items and their embeddings as FORGE's `reconstruct_data_mask.npz`.

    Args:
        items ([`ItemEmbeddings`]):
            The items.
        path (`str` or `os.PathLike`):
            The `.npz` file to write.
    """
    check_type("items", items, ItemEmbeddings)
    _write(Path(path), items, {"ids": _id_array(items.item_ids)})


def write_contrastive_archive(pairs: ItemPairs, path: str | os.PathLike) -> None:
    """
    Writes pairs, and the embeddings of all items, as FORGE's `contrastive_data_mask.npz`.

    Its dictionary from item ids to rows is a pickle, since FORGE's own tools ask for that: `np.load` opens it with
    `allow_pickle=True` only, which is for files that one made oneself.

    Args:
        pairs ([`ItemPairs`]):
            Pairs and their items.
        path (`str` or `os.PathLike`):
            The `.npz` file to write.
    """
    check_type("pairs", pairs, ItemPairs)
    ids = _id_array(pairs.items.item_ids)
    row_of = np.array(dict(zip(ids.tolist(), range(len(ids)), strict=True)), dtype=object)
    if len(row_of.item()) != len(ids):
        raise DuplicateItemError("`pairs` must be of items with unique ids: the archive has a dictionary of them.")
    _write(Path(path), pairs.items, {"itemEncID": row_of, "pairs": ids[pairs.rows]})


class _Rows:
    """Rows of a table in another order, some of them twice or not at all, as a table."""

    def __init__(self, table: np.ndarray, rows: np.ndarray):
        self._table, self._rows = table, rows
        self.shape = (len(rows), table.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._table[self._rows[rows]]


class _Archive:
    """
    The arrays of an `.npz` file. `np.load` finds where they lie and is never asked for one.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        if not path.is_file():
            raise FileNotFoundError(f"`path` {str(path)!r} is not a file.")
        self.path = path
        self._file = self._guard(lambda: np.load(path, allow_pickle=False), "an .npz archive")
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise CorruptFileError(f"{path} must be an .npz archive, but is a single array.")
        missing = [name for name in names if name not in self._file.files]
        if missing:
            self._file.close()
            raise CorruptFileError(f"{path} lacks the arrays {missing}; it has {self._file.files}.")

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def array(self, name: str) -> np.ndarray:
        """An array of integers, texts or pickled objects: mapped, or in memory where it was packed."""
        array = self._open(name, extract_to=None)
        if array.dtype.kind not in "OiuU":
            raise CorruptFileError(f"`{name}` of {self.path} must hold integers or texts, not {array.dtype}.")
        if not is_unicode(array):
            raise CorruptFileError(f"`{name}` of {self.path} must hold texts, but has numbers that are no letters.")
        return array

    def table(self, name: str, extract_to: str | os.PathLike | None) -> np.ndarray:
        """A mapped array of floating-point vectors."""
        array = self._open(name, extract_to, is_table=True)
        if array.dtype.kind != "f" or array.ndim != 2:
            raise InvalidEmbeddingsError(
                f"`{name}` of {self.path} must be floating-point vectors of shape (num_items, dim), but is "
                f"{array.dtype} of shape {array.shape}."
            )
        return array

    def _open(self, name: str, extract_to: str | os.PathLike | None, is_table: bool = False) -> np.ndarray:
        info = self._guard(lambda: self._file.zip.getinfo(f"{name}.npy"), f"an archive of `{name}.npy`")
        with self._guard(lambda: self._file.zip.open(info), "an archive that isn't encrypted") as member:
            shape, fortran, dtype, header_size = self._guard(lambda: _read_header(member), "an .npz archive")
            num_bytes = info.file_size - header_size
            if min(shape, default=0) < 0 or dtype.itemsize == 0:
                raise CorruptFileError(f"`{name}` of {self.path} has the shape {shape} of {dtype}.")
            if not dtype.hasobject and num_bytes != dtype.itemsize * math.prod(shape):
                raise CorruptFileError(f"`{name}` of {self.path} isn't of the size that its header says.")
            if dtype.hasobject:
                if is_table or dtype.kind != "O":
                    raise InvalidEmbeddingsError(f"`{name}` of {self.path} must hold numbers, not objects.")
                array = read_object_array(self._read(name, info, member, num_bytes))
                if array.shape != shape:
                    raise CorruptFileError(f"`{name}` of {self.path} isn't of the shape that its header says.")
                return array
            order = "F" if fortran else "C"
            if info.compress_type == 0:
                offset = self._offset(info) + header_size
                if offset + num_bytes > self.path.stat().st_size:
                    raise CorruptFileError(f"{self.path} ends within `{name}`.")
                if num_bytes == 0:
                    return np.empty(shape, dtype)
                return np.memmap(self.path, dtype, "r", offset, shape, order)
            if not is_table:
                data = self._read(name, info, member, num_bytes)
                return np.frombuffer(data, dtype).reshape(shape, order=order)
            if extract_to is None:
                raise ValueError(
                    f"{self.path} is compressed, so `{name}`, of {num_bytes / 1e9:.1f} GB, can't be mapped from it. "
                    "Give `extract_to`, a .npy file to unpack it to, or save the archive by `np.savez`."
                )
            self._refuse_bombs(name, info)
            extract_to = Path(extract_to)
            extract_to.parent.mkdir(parents=True, exist_ok=True)

            def extract(temporary: Path) -> None:
                header = {"descr": dtype.str, "fortran_order": fortran, "shape": shape}
                progress = tqdm(desc=f"Unpacking {name}", total=num_bytes, unit="B", unit_scale=True, delay=5)
                with open(temporary, "wb") as file, progress:
                    np.lib.format.write_array_header_1_0(file, header)
                    while chunk := self._guard(lambda: member.read(_CHUNK), "undamaged"):
                        file.write(chunk)
                        progress.update(len(chunk))

            write_then_rename(extract_to, extract)
            return np.load(extract_to, mmap_mode="r", allow_pickle=False)

    def _read(self, name: str, info: Any, member: Any, num_bytes: int) -> bytes:
        self._refuse_bombs(name, info)
        data = self._guard(member.read, "undamaged")
        if len(data) != num_bytes:
            raise CorruptFileError(f"{self.path} ends within `{name}`.")
        return data

    def _refuse_bombs(self, name: str, info: Any) -> None:
        if info.file_size > _MAX_RATIO * info.compress_size + _CHUNK:
            raise CorruptFileError(
                f"`{name}` of {self.path} would unpack {info.compress_size:,} bytes to {info.file_size:,}, more than "
                f"{_MAX_RATIO} times as many: it may be made to fill memory. If it isn't, save it by `np.savez`."
            )

    def _offset(self, info: Any) -> int:
        """Where the bytes of a member lie. Its own header comes first, whose name and extra field the list repeats."""
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise CorruptFileError(f"{self.path} is damaged: no header where {info.filename!r} should lie.")
        return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def _guard(self, read: Callable[[], Any], wanted: str) -> Any:
        # A damaged archive shows in errors of zip, of zlib, of numpy and of its header's literals.
        try:
            return read()
        except Exception as error:
            raise CorruptFileError(f"{self.path} must be {wanted}: {type(error).__name__}: {error}") from error


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format is for structures")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype, member.tell()


def _id_array(item_ids: Sequence[str] | Sequence[int]) -> np.ndarray:
    ids = np.array(item_ids)
    if ids.dtype.kind not in "iuU" or len(set(map(type, item_ids))) > 1:
        raise ValueError("`item_ids` must be all `str` or all `int`.")
    if ids.dtype.kind == "U" and any("\0" in item for item in item_ids):
        raise ValueError("`item_ids` must have no NUL character: an array of numpy's can't hold one.")
    return ids


def _write(path: Path, items: ItemEmbeddings, arrays: dict[str, np.ndarray]) -> None:
    """Embeddings go through a mapped file, so that a table of any size and kind is written at constant memory."""
    if path.suffix != ".npz":
        raise ValueError(f"`path` must end in .npz, got {str(path)!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    spool = path.with_name(f".{path.name}.npy")

    def write(temporary: Path) -> None:
        # Written, then mapped: writing to a map of a file that the disk has no room for would end the process.
        with open(spool, "wb") as file:
            shape = (len(items), items.dim)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in tqdm(items.batches(), "Writing embeddings", -(-len(items) // READ_BATCH_SIZE), delay=5):
                file.write(batch.numpy().astype("<f4", copy=False))
        embeds = np.load(spool, mmap_mode="r", allow_pickle=False)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays, embeds=embeds)

    with lock_file(path):
        try:
            write_then_rename(path, write)
        finally:
            spool.unlink(missing_ok=True)
