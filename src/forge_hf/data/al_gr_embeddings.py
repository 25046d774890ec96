# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""AL-GR's Item-EMB, item embeddings as base64 in CSV, to a file that is mapped into memory, and back."""

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..checks import check_type
from ..errors import InvalidEmbeddingsError
from ..hub.writing import write_then_rename
from .embeddings import ItemEmbeddings
from .exact_csv import read_header, read_texts, write_texts
from .malformed import MalformedRows


__all__ = ["read_item_embeddings", "write_item_embeddings"]

WRITE_BATCH_SIZE = 10_000


def read_item_embeddings(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    malformed: MalformedRows | None = None,
) -> ItemEmbeddings:
    """
    Turns AL-GR's Item-EMB into one Arrow file, block by block at constant memory, and maps that.

    The file is a dataset with the columns `item_id` and `embedding`: later, [`ItemEmbeddings.from_file`] and
    `datasets` open it without reading it.

    Args:
        paths (`str`, `os.PathLike` or a sequence of them):
            CSV files with the columns `base62_string` or `item_id`, and `feature`, the base64 of little-endian float32
            numbers.
        output (`str` or `os.PathLike`):
            The `.arrow` file to write. It appears when it's complete.
        malformed ([`MalformedRows`], *optional*):
            Takes count of rows without an id, or whose feature isn't base64, isn't as wide as the first one, or isn't
            finite, which are left out. Lines are counted in each file.

    Returns:
        [`ItemEmbeddings`]

    Raises:
        `FileNotFoundError`: if a file doesn't exist.
        [`CorruptFileError`]: if one isn't CSV with these columns.
        [`InvalidEmbeddingsError`]: if there is no item.
        [`MalformedRowsError`]: if too many rows are malformed.

    Example:

    ```python
    >>> import tempfile
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings, read_item_embeddings, write_item_embeddings

    >>> folder = tempfile.mkdtemp()
    >>> write_item_embeddings(ItemEmbeddings(torch.eye(2), item_ids=["007", "NA"]), f"{folder}/part_01.csv")
    >>> items = read_item_embeddings(f"{folder}/part_01.csv", f"{folder}/items.arrow")
    >>> items.item_ids, items.to_tensor()
    (['007', 'NA'], tensor([[1., 0.],
            [0., 1.]]))
    ```
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    output = Path(output)
    if output.suffix != ".arrow":
        raise ValueError(f"`output` must end in .arrow, got {str(output)!r}.")
    if not paths:
        raise ValueError("`paths` is empty: give at least one file.")
    for path in paths:
        read_header(path)  # a file that isn't there is missed before hours of work
    malformed = malformed or MalformedRows(source=str(paths[0]) if len(paths) == 1 else f"{len(paths)} files")

    def write(temporary: Path) -> None:
        writer = None
        with pa.OSFile(str(temporary), "wb") as file:
            for batch in _read(paths, malformed):
                writer = writer or pa.ipc.new_stream(file, batch.schema)
                writer.write_table(batch)
            if writer is None:
                raise InvalidEmbeddingsError(f"There is no embedding in {', '.join(map(str, paths[:5]))}.")
            writer.close()
        malformed.report()

    output.parent.mkdir(parents=True, exist_ok=True)
    write_then_rename(output, write)
    return ItemEmbeddings.from_file(output)


def write_item_embeddings(items: ItemEmbeddings, path: str | os.PathLike, id_column: str = "base62_string") -> None:
    """
    Writes item embeddings as AL-GR's Item-EMB. [`read_item_embeddings`] reads them back, to the same bits.

    Args:
        items ([`ItemEmbeddings`]):
            The items.
        path (`str` or `os.PathLike`):
            The CSV file to write.
        id_column (`str`, *optional*, defaults to `"base62_string"`):
            Name of the column of ids.

    Raises:
        [`InvalidEmbeddingsError`]: if a vector isn't finite: the reader would leave it out.
        `ValueError`: if an id is empty, has a line end in it, or isn't Unicode.
    """
    check_type("items", items, ItemEmbeddings)

    def batches() -> Iterator[Iterator[tuple[str | int, str]]]:
        start = 0
        for batch in items.batches(WRITE_BATCH_SIZE):
            table = batch.numpy().astype("<f4", copy=False)
            if not np.isfinite(table).all():
                raise InvalidEmbeddingsError(
                    f"`items` has NaN or infinite values in the rows {start} to {start + len(table) - 1}. "
                    "`items.validate()` says which."
                )
            ids = items.item_ids[start : start + len(table)]
            start += len(table)
            yield ((item, base64.b64encode(row).decode()) for item, row in zip(ids, table, strict=True))

    write_texts(Path(path), [id_column, "feature"], batches())


def _read(paths: list[Path], malformed: MalformedRows) -> Iterator[pa.Table]:
    dim = None
    for path in paths:
        id_column = "item_id" if "item_id" in read_header(path) else "base62_string"
        for batch in read_texts(path, [id_column, "feature"], malformed, title=f"Reading {path.name}"):
            batch = batch.keep(pc.not_equal(batch.table[id_column], "").to_numpy(), malformed, "no item id")
            rows = [_decode(text) for text in batch.table["feature"].to_pylist()]
            is_vector = np.array([row is not None for row in rows], dtype=bool)
            batch = batch.keep(is_vector, malformed, "a feature that isn't the base64 of float32 numbers")
            rows = [row for row in rows if row is not None]
            if dim is None and rows:
                dim = len(rows[0]) // 4
            is_wide = np.array([len(row) == 4 * dim for row in rows], dtype=bool) if rows else np.zeros(0, bool)
            batch = batch.keep(is_wide, malformed, f"not {dim} numbers")
            table = np.frombuffer(b"".join(row for row in rows if len(row) == 4 * dim), "<f4").reshape(-1, dim or 1)
            is_finite = np.isfinite(table).all(axis=1)
            batch = batch.keep(is_finite, malformed, "NaN or infinite numbers")
            if len(batch.lines):
                numbers = pa.array(table[is_finite].reshape(-1).astype(np.float32, copy=False))
                vectors = pa.FixedSizeListArray.from_arrays(numbers, dim)
                yield pa.table({"item_id": batch.table[id_column].combine_chunks(), "embedding": vectors})


def _decode(text: str) -> bytes | None:
    try:
        row = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):  # ValueError: letters outside ASCII
        return None
    return row if row and len(row) % 4 == 0 else None
