# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of AL-GR, FORGE's datasets: behaviour, semantic IDs of items, and rows of text for training and test."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset, load_dataset

from ..errors import CorruptFileError, InvalidCodesError, InvalidSequencesError
from ..hub.folder import write_then_rename
from .exact_csv import TextBatch, read_header, read_texts, write_texts
from .malformed import MalformedRows


__all__ = [
    "behavior_to_lists",
    "normalize_text_rows",
    "read_item_sids",
    "read_origin_behavior",
    "read_text_rows",
    "write_inferred_sids",
    "write_item_sids",
    "write_origin_behavior",
]

WRITE_BATCH_SIZE = 10_000
_BEHAVIOR = ["user_history", "target_item"]
_LEVEL = re.compile("codebook_lv([1-9][0-9]*)")
# The names of the same columns in AL-GR's CSV files and in its JSONL.
_TEXT_COLUMNS = {"system": "instruction", "user": "input", "answer": "output"}


def read_origin_behavior(
    path: str | os.PathLike, cache_file: str | os.PathLike | None = None, malformed: MalformedRows | None = None
) -> Dataset:
    """
    Reads AL-GR's `origin_behavior`: what users did, and what they did next, by item id.

    The file has the items of a history newest first, in one text; here they come oldest first, in a list, as all of
    forge_hf has them.

    Args:
        path (`str` or `os.PathLike`):
            CSV file with the columns `user_history` and `target_item`, item ids joined by `;`.
        cache_file (`str` or `os.PathLike`, *optional*):
            Arrow file to write the rows to, and to map them from: reading then takes constant memory. By default they
            are kept in memory.
        malformed ([`MalformedRows`], *optional*):
            Takes count of rows without a history, without a target, or with an empty id, which are left out.

    Returns:
        [`~datasets.Dataset`] with the columns `history` and `target`, lists of `str`: what [`RetrievalEvaluator`]
        scores.

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it isn't CSV with these columns.
        [`MalformedRowsError`]: if too many rows are malformed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.data import read_origin_behavior

    >>> path = Path(tempfile.mkdtemp()) / "s1_tiny.csv"
    >>> _ = path.write_text("user_history,target_item\\n3c;2b;007,NA;x\\n")
    >>> read_origin_behavior(path)[0]
    {'history': ['007', '2b', '3c'], 'target': ['NA', 'x']}
    ```
    """
    path = Path(path)
    malformed = malformed or MalformedRows(source=str(path))
    schema = pa.schema({"history": pa.list_(pa.string()), "target": pa.list_(pa.string())})
    tables = (_behavior_table(batch, malformed) for batch in read_texts(path, _BEHAVIOR, malformed, title="Reading"))
    if cache_file is None:
        dataset = Dataset(pa.concat_tables([schema.empty_table(), *tables]))
    else:
        Path(cache_file).parent.mkdir(parents=True, exist_ok=True)
        write_then_rename(Path(cache_file), partial(_write_arrow, tables, schema))
        dataset = Dataset.from_file(str(cache_file))
    malformed.report()
    return dataset


def behavior_to_lists(batch: dict[str, list[str]]) -> dict[str, list[list[str]]]:
    """
    The same for a batch of rows of a dataset, streamed or not: for [`~datasets.IterableDataset.map`] with
    `batched=True`. Rows that [`read_origin_behavior`] would leave out come with an empty list.

    Args:
        batch (`dict[str, list[str]]`):
            The columns `user_history` and `target_item`.

    Returns:
        `dict[str, list[list[str]]]`: the columns `history`, oldest first, and `target`.

    Example:

    ```python
    >>> from forge_hf.data import behavior_to_lists

    >>> behavior_to_lists({"user_history": ["3c;2b;007"], "target_item": ["NA;x"]})
    {'history': [['007', '2b', '3c']], 'target': [['NA', 'x']]}

    >>> from datasets import load_dataset

    >>> rows = load_dataset(
    ...     "AL-GR/AL-GR-Tiny", data_files="origin_behavior/s1_tiny.csv", split="train", streaming=True,
    ...     na_filter=False,
    ... )  # doctest: +SKIP
    >>> rows = rows.map(
    ...     behavior_to_lists, batched=True, remove_columns=["user_history", "target_item"]
    ... )  # doctest: +SKIP
    ```
    """
    histories, targets = ([(text or "").split(";") for text in batch[name]] for name in _BEHAVIOR)
    return {
        "history": [items[::-1] if all(items) else [] for items in histories],
        "target": [items if all(items) else [] for items in targets],
    }


def write_origin_behavior(dataset: Dataset, path: str | os.PathLike) -> None:
    """
    The inverse of [`read_origin_behavior`].

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `history` (item ids, oldest first) and `target` (an item id, or a list of them).
        path (`str` or `os.PathLike`):
            The CSV file to write.

    Raises:
        [`InvalidSequencesError`]: if a column is missing, a list is empty, or an id is empty or has a `;` in it.
    """
    missing = [name for name in ("history", "target") if name not in dataset.column_names]
    if missing:
        raise InvalidSequencesError(f"`dataset` lacks the columns {missing}; it has {dataset.column_names}.")

    def join(items: Any) -> str:
        items = [str(item) for item in (items if isinstance(items, list) else [items])]
        if not items or not all(items) or any(";" in item for item in items):
            raise InvalidSequencesError(
                f"`dataset` must hold lists of item ids that are neither empty nor have a ';' in them, got {items}."
            )
        return ";".join(items)

    def join_reversed(items: list) -> str:
        return join(items[::-1])

    batches = dataset.select_columns(["history", "target"]).iter(WRITE_BATCH_SIZE)
    rows = (zip(map(join_reversed, batch["history"]), map(join, batch["target"]), strict=True) for batch in batches)
    write_texts(Path(path), _BEHAVIOR, rows)


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
            num_levels = num_levels or int(lengths.max(initial=0))
            batch = batch.keep(lengths == num_levels, malformed, f"not {num_levels} codes")
            parts = parts.filter(pa.array(lengths == num_levels)).flatten()
            texts = [parts.take(pa.array(np.arange(level, len(parts), num_levels))) for level in range(num_levels)]
        codes, well_formed = _codes(texts)
        batch = batch.keep(well_formed, malformed, "codes that aren't integers from 0, or only some of them")
        codes = [column.filter(pa.array(well_formed)) for column in codes]
        names = [f"codebook_lv{level + 1}" for level in range(num_levels)]
        tables.append(pa.table([batch.table[id_column], *codes], ["item_id", *names]))
    malformed.report()
    if not tables:
        names = [f"codebook_lv{level + 1}" for level in range(num_levels)]
        tables = [pa.schema({"item_id": pa.string(), **dict.fromkeys(names, pa.int32())}).empty_table()]
    return Dataset(pa.concat_tables(tables))


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
    rows = (zip(*(batch[name] for name in ["item_id", *levels]), strict=True) for batch in _batches(dataset))
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
        [`InvalidCodesError`]: if a column is missing.
    """
    levels = _levels(dataset)
    rows = (
        (
            (item, ",".join(map(str, codes)))
            for item, *codes in zip(*(batch[name] for name in ["item_id", *levels]), strict=True)
            if None not in codes
        )
        for batch in _batches(dataset)
    )
    write_texts(Path(path), ["item_id", "SID"], rows)


def read_text_rows(path: str | os.PathLike, streaming: bool = False) -> Dataset | IterableDataset:
    """
    Opens a file of AL-GR's training or test rows: `system`, `user` and `answer`.

    Args:
        path (`str` or `os.PathLike`):
            CSV parted by commas or tabs, or JSON lines (`.json`, `.jsonl`).
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows when they are asked for, instead of first writing all of them to the cache of
            `datasets`.

    Returns:
        [`~datasets.Dataset`] or [`~datasets.IterableDataset`], as [`normalize_text_rows`] gives. All values are `str`,
        so that an answer that is the item `007` or `NA` stays that.

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it lacks a column.
    """
    path = Path(path)
    options: dict[str, Any] = {"data_files": str(path), "split": "train", "streaming": streaming}
    if ".json" in path.name:
        if not path.is_file():
            raise FileNotFoundError(f"`path` {str(path)!r} is not a file.")
        return normalize_text_rows(load_dataset("json", **options))
    header = read_header(path, "\t")
    delimiter = "\t" if len(header) > 1 else ","
    from datasets import Features, Value

    features = Features(dict.fromkeys(header if len(header) > 1 else read_header(path), Value("string")))
    return normalize_text_rows(load_dataset("csv", sep=delimiter, na_filter=False, features=features, **options))


def normalize_text_rows(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """
    Gives the rows of any of AL-GR's forms the columns `system`, `user` and `answer`, and drops others.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Columns `user` and `answer`, or `input` and `output`, and perhaps `system`, or `instruction`.

    Returns:
        The same kind of dataset.

    Raises:
        [`CorruptFileError`]: if it lacks a column.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf.data import normalize_text_rows

    >>> rows = Dataset.from_dict({"id": ["a"], "instruction": ["Predict."], "input": ["C1C6"], "output": ["C0C5"]})
    >>> normalize_text_rows(rows)[0]
    {'system': 'Predict.', 'user': 'C1C6', 'answer': 'C0C5'}

    >>> from datasets import load_dataset

    >>> rows = load_dataset(
    ...     "AL-GR/AL-GR-Tiny", data_files="test_data/s1_tiny_test.csv", split="train", streaming=True, na_filter=False
    ... )  # doctest: +SKIP
    >>> rows = normalize_text_rows(rows)  # doctest: +SKIP
    ```
    """
    names = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not know them before its first row
    found = {
        column: next((name for name in (column, other) if name in names), None)
        for column, other in _TEXT_COLUMNS.items()
    }
    if found["user"] is None or found["answer"] is None:
        raise CorruptFileError(
            f"Rows of AL-GR have the columns `user` and `answer` (or `input` and `output`), but these have {names}."
        )
    found = {column: name for column, name in found.items() if name is not None}
    if list(names) == list(found):
        return dataset
    renamed = {name: column for column, name in found.items() if name != column}
    dataset = dataset.select_columns(list(found.values()))
    return dataset.rename_columns(renamed) if renamed else dataset


def _behavior_table(batch: TextBatch, malformed: MalformedRows) -> pa.Table:
    for name in _BEHAVIOR:
        text = pc.binary_join_element_wise("", batch.table[name], "", ";")  # an empty id stands between two ';'
        reason = f"an empty item id in `{name}`"
        batch = batch.keep(~pc.match_substring(text, ";;").to_numpy(), malformed, reason)
    histories, targets = (pc.split_pattern(batch.table[name], ";").combine_chunks() for name in _BEHAVIOR)
    if isinstance(histories, pa.ChunkedArray):  # of no chunks
        histories, targets = (pa.array([], pa.list_(pa.string())) for _ in range(2))
    # Each list backwards: its places count down from its end.
    offsets = histories.offsets.to_numpy().astype(np.int64)
    places = np.repeat(offsets[:-1] + offsets[1:] - 1, np.diff(offsets)) - np.arange(offsets[0], offsets[-1])
    reversed_items = histories.values.take(pa.array(places))
    histories = pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), reversed_items)
    return pa.table({"history": histories, "target": targets})


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


def _write_arrow(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _levels(dataset: Dataset) -> list[str]:
    levels = sorted(filter(_LEVEL.fullmatch, dataset.column_names), key=lambda name: int(name[len("codebook_lv") :]))
    if "item_id" not in dataset.column_names or not levels:
        raise InvalidCodesError(
            f"`dataset` must have the columns `item_id`, `codebook_lv1`, ..., but has {dataset.column_names}."
        )
    return levels


def _batches(dataset: Dataset) -> Iterator[dict[str, list]]:
    return dataset.iter(WRITE_BATCH_SIZE)
