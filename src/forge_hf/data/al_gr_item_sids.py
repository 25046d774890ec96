# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Semantic IDs of items in the files of AL-GR and of FORGE's `infer_SID.py`."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..checks import check_dataset
from ..errors import CorruptFileError, InvalidCodesError
from .exact_csv import read_header, read_texts, write_texts
from .malformed import MalformedRows


__all__ = ["read_item_sids", "write_inferred_sids", "write_item_sids"]

WRITE_BATCH_SIZE = 10_000
_LEVEL = re.compile("codebook_lv([1-9][0-9]*)")


def read_item_sids(path: str | os.PathLike, malformed: MalformedRows | None = None) -> Dataset:
    """
    Reads the semantic IDs of items from AL-GR's `item_info`, or from what FORGE's `infer_SID.py` writes.

    Item ids stay the texts they are. Many of them look like something else, and a reader that guesses types turns
    `"007"` and `"1e5"` into numbers and `"NA"` into nothing.

    Args:
        path (`str` or `os.PathLike`):
            CSV file with the ids in a column `base62_string` or `item_id`, and codes, counted from 0 in each level,
            either in columns `codebook_lv1`, `codebook_lv2`, ... or joined by `,` in a column `SID`. An item may have
            no codes.
        malformed ([`MalformedRows`], *optional*):
            Takes count of rows with an empty id or with codes that aren't integers, which are left out.

    Returns:
        [`~datasets.Dataset`] with the columns `item_id` (`str`) and `codebook_lv1`, `codebook_lv2`, ... (integers, all
        of them null for an item without codes): what [`SemanticIdCatalog.from_dataset`] takes.

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it isn't CSV with these columns.
        [`MalformedRowsError`]: if too many rows are malformed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf import SemanticIdCatalog
    >>> from forge_hf.data import read_item_sids

    >>> path = Path(tempfile.mkdtemp()) / "tiny_item_sid_final.csv"
    >>> _ = path.write_text("base62_string,codebook_lv1,codebook_lv2\\n007,0,3\\nNA,1,2\\n")
    >>> SemanticIdCatalog.from_dataset(read_item_sids(path), codebook_sizes=[4, 4]).item_ids
    ['007', 'NA']
    ```
    """
    path = Path(path)
    header = read_header(path)
    id_column = "item_id" if "item_id" in header else "base62_string"
    levels = [name for name in header if _LEVEL.fullmatch(name)]
    if sorted(levels) != sorted(f"codebook_lv{level + 1}" for level in range(len(levels))):
        raise CorruptFileError(f"{str(path)!r} must number the columns of its levels from 1 on, but has {levels}.")
    levels = [f"codebook_lv{level + 1}" for level in range(len(levels))]
    malformed = malformed or MalformedRows(source=str(path))
    num_levels, tables = len(levels), []
    for batch in read_texts(path, [id_column, *(levels or ["SID"])], malformed, title="Reading semantic IDs"):
        batch = batch.keep(pc.not_equal(batch.table[id_column], "").to_numpy(), malformed, "no item id")
        if levels:
            texts = [batch.table[name] for name in levels]
        else:
            parts = pc.split_pattern(batch.table["SID"], ",").combine_chunks()
            lengths = pc.list_value_length(parts).to_numpy()
            is_empty = pc.equal(pc.utf8_trim_whitespace(batch.table["SID"]), "").to_numpy()
            num_levels = num_levels or int(lengths[~is_empty].max(initial=0))
            kept = is_empty | (lengths == num_levels)
            batch = batch.keep(kept, malformed, f"not {num_levels} codes")
            starts = parts.offsets.to_numpy()[:-1][kept] - parts.offsets[0].as_py()
            texts = [
                pc.if_else(
                    is_empty[kept], "", parts.flatten().take(pa.array(np.where(is_empty[kept], 0, starts + level)))
                )
                for level in range(num_levels)
            ]
        codes, well_formed = _codes(texts)
        batch = batch.keep(well_formed, malformed, "codes that aren't integers from 0, or only some of them")
        codes = [column.filter(pa.array(well_formed)) for column in codes]
        names = [f"codebook_lv{level + 1}" for level in range(num_levels)]
        tables.append(pa.table([batch.table[id_column], *codes], ["item_id", *names]))
    malformed.report()
    if not tables:
        names = [f"codebook_lv{level + 1}" for level in range(num_levels)]
        tables = [pa.schema({"item_id": pa.string(), **dict.fromkeys(names, pa.int32())}).empty_table()]
    return Dataset(pa.concat_tables(tables, promote_options="default"))


def write_item_sids(dataset: Dataset, path: str | os.PathLike, id_column: str = "base62_string") -> None:
    """
    Writes semantic IDs as AL-GR's `item_info` has them. [`read_item_sids`] reads them back.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `item_id`, `codebook_lv1`, `codebook_lv2`, ...: what [`SemanticIdCatalog.to_dataset`] gives, or
            [`read_item_sids`]. Codes may be missing.
        path (`str` or `os.PathLike`):
            The CSV file to write.
        id_column (`str`, *optional*, defaults to `"base62_string"`):
            Name of the column of ids in the file; AL-GR has `"base62_string"` or `"item_id"`.

    Raises:
        [`InvalidCodesError`]: if a column is missing.
        `ValueError`: if an id is missing or empty, has a line end in it, or isn't Unicode.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf import SemanticIdCatalog
    >>> from forge_hf.data import write_item_sids

    >>> catalog = SemanticIdCatalog.from_codes(["007"], [[1, 2]], codebook_sizes=[4, 4], on_collision="keep")
    >>> path = Path(tempfile.mkdtemp()) / "item_sid.csv"
    >>> write_item_sids(catalog.to_dataset(), path)
    >>> path.read_text().split()
    ['base62_string,codebook_lv1,codebook_lv2', '007,1,2']
    ```
    """
    levels = _levels(dataset)
    rows = (
        zip(*(batch[name] for name in ["item_id", *levels]), strict=True) for batch in dataset.iter(WRITE_BATCH_SIZE)
    )
    write_texts(Path(path), [id_column, *levels], rows)


def write_inferred_sids(dataset: Dataset, path: str | os.PathLike) -> None:
    """
    Writes semantic IDs as FORGE's `infer_SID.py` does, with the codes of an item in one text: `1aZ,"12,8,16"`.
    [`read_item_sids`] reads them back.

    Args:
        dataset ([`~datasets.Dataset`]):
            As in [`write_item_sids`]. Items without codes are left out.
        path (`str` or `os.PathLike`):
            The CSV file to write, with the columns `item_id` and `SID`.

    Raises:
        [`InvalidCodesError`], `ValueError`: as [`write_item_sids`].
    """
    levels = _levels(dataset)
    rows = (
        (
            (item, ",".join(map(str, codes)))
            for item, *codes in zip(*(batch[name] for name in ["item_id", *levels]), strict=True)
            if None not in codes
        )
        for batch in dataset.iter(WRITE_BATCH_SIZE)
    )
    write_texts(Path(path), ["item_id", "SID"], rows)


def _codes(texts: list[pa.ChunkedArray]) -> tuple[list[pa.ChunkedArray], np.ndarray]:
    """Codes as nullable int32, and which rows have all of them or none."""
    columns, empty, valid = [], [], []
    for text in texts:
        text = pc.utf8_trim_whitespace(text)
        is_code = pc.match_substring_regex(text, r"^[0-9]{1,9}(\.0*)?$")  # pandas writes columns with gaps as 12.0
        digits = pc.replace_substring_regex(pc.if_else(is_code, text, None), r"\..*$", "")
        columns.append(pc.cast(digits, pa.int32()))
        empty.append(pc.equal(text, "").to_numpy(zero_copy_only=False))
        valid.append(is_code.to_numpy(zero_copy_only=False))
    return columns, np.logical_and.reduce(valid) | np.logical_and.reduce(empty)


def _levels(dataset: Dataset) -> list[str]:
    check_dataset("dataset", dataset)
    levels = sorted(filter(_LEVEL.fullmatch, dataset.column_names), key=lambda name: int(name[len("codebook_lv") :]))
    if "item_id" not in dataset.column_names or not levels:
        raise InvalidCodesError(
            f"`dataset` must have the columns `item_id`, `codebook_lv1`, ..., but has {dataset.column_names}."
        )
    return levels
