# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of AL-GR, FORGE's datasets: behaviour, and rows of text for training and test."""

import csv
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset

from ..checks import check_dataset, check_type
from ..errors import CorruptFileError, InvalidSequencesError
from ..hub.writing import write_then_rename
from .damaged import refuse_damaged, refuse_null_lines
from .exact_csv import TextBatch, read_header, read_texts, write_texts
from .malformed import MalformedRows


__all__ = [
    "behavior_to_lists",
    "normalize_text_rows",
    "read_origin_behavior",
    "read_text_rows",
    "write_origin_behavior",
]

WRITE_BATCH_SIZE = 10_000
_BLOCK_SIZE = 1000
_BEHAVIOR = ["user_history", "target_item"]
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

    Raises:
        [`InvalidSequencesError`]: if a column is missing, or holds something else than texts.

    Example:

    ```python
    >>> from forge_hf.data import behavior_to_lists

    >>> behavior_to_lists({"user_history": ["3c;2b;007"], "target_item": ["NA;x"]})
    {'history': [['007', '2b', '3c']], 'target': [['NA', 'x']]}

    >>> from datasets import load_dataset

    >>> rows = load_dataset(
    ...     "AL-GR/AL-GR-Tiny", data_files="origin_behavior/s1_tiny.csv", split="train", streaming=True,
    ...     na_filter=False, on_bad_lines="warn",
    ... )  # doctest: +SKIP
    >>> rows = rows.map(
    ...     behavior_to_lists, batched=True, remove_columns=["user_history", "target_item"]
    ... )  # doctest: +SKIP
    ```
    """
    for name in _BEHAVIOR:
        if name not in batch or not set(map(type, batch[name])) <= {str, type(None)}:
            raise InvalidSequencesError(
                f"`batch` must have the columns {_BEHAVIOR}, of texts, got {name!r} "
                f"{'of other values: read CSV without guessing types' if name in batch else 'missing'}."
            )
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
        [`InvalidSequencesError`]: if a column is missing, a list is empty, or an id is missing, empty, has a `;` or a
            line end in it, or isn't Unicode.
    """
    check_dataset("dataset", dataset)
    missing = [name for name in ("history", "target") if name not in dataset.column_names]
    if missing:
        raise InvalidSequencesError(f"`dataset` lacks the columns {missing}; it has {dataset.column_names}.")

    def join(items: Any) -> str:
        items = ["" if item is None else str(item) for item in (items if isinstance(items, list) else [items])]
        if not items or not all(items) or any(";" in item for item in items):
            raise InvalidSequencesError(
                f"`dataset` must hold lists of item ids that are neither empty nor have a ';' in them, got {items}."
            )
        return ";".join(items)

    def join_reversed(items: Any) -> str:
        return join(items[::-1] if isinstance(items, list) else items)

    batches = dataset.select_columns(["history", "target"]).iter(WRITE_BATCH_SIZE)
    rows = (zip(map(join_reversed, batch["history"]), map(join, batch["target"]), strict=True) for batch in batches)
    write_texts(Path(path), _BEHAVIOR, rows)


def read_text_rows(path: str | os.PathLike, streaming: bool = False) -> Dataset | IterableDataset:
    """
    Opens a file of AL-GR's training or test rows: `system`, `user` and `answer`.

    Args:
        path (`str` or `os.PathLike`):
            CSV parted by commas or tabs, or JSON lines (`.json`, `.jsonl`). A file of a dataset of the Hub is
            `"hf://datasets/AL-GR/AL-GR-Tiny/train_data/s1_tiny.csv"`.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows when they are asked for, instead of first writing all of them to the cache of
            `datasets`.

    Returns:
        [`~datasets.Dataset`] or [`~datasets.IterableDataset`], as [`normalize_text_rows`] gives. All values are `str`,
        so that an answer that is the item `007` or `NA` stays that. A row of CSV with too few values, or too many, has
        empty texts, so that it keeps its number and is counted as malformed by what reads it. Blank lines are no rows.

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it lacks a column, or isn't CSV or JSON lines in UTF-8. Of a stream, the first rows
            are looked at; what `datasets` raises on later ones comes out as it is.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.data import read_text_rows

    >>> path = Path(tempfile.mkdtemp()) / "test.csv"
    >>> _ = path.write_text("system,user,answer\\nPredict.,C1C6,007\\nPredict.,C1C6,C0C5,007\\n")
    >>> list(read_text_rows(path, streaming=True))
    [{'system': 'Predict.', 'user': 'C1C6', 'answer': '007'}, {'system': '', 'user': '', 'answer': ''}]
    ```
    """
    path = str(path)
    if "://" not in path and not Path(path).is_file():
        raise FileNotFoundError(
            f"`path` {path!r} is not a file. One of a dataset of the Hub is 'hf://datasets/OWNER/NAME/FILE'."
        )
    options: dict[str, Any] = {"data_files": path, "split": "train", "streaming": streaming}
    if ".json" in Path(path).name:
        if Path(path).suffix in (".json", ".jsonl") and "://" not in path:
            refuse_null_lines(Path(path))
        with refuse_damaged(path):
            return normalize_text_rows(load_dataset("json", **options))
    header, delimiter = read_header(path, "\t"), "\t"
    if len(header) == 1:
        header, delimiter = read_header(path), ","
    filesystem, place = fsspec.url_to_fs(path)
    version = filesystem.ukey(place)  # another for a file that has changed: `datasets` keeps what it has read
    options = {"paths": [path], "header": tuple(header), "delimiter": delimiter, "version": version}
    features = Features(dict.fromkeys(header, Value("string")))
    if not streaming:
        with refuse_damaged(path):
            return normalize_text_rows(Dataset.from_generator(_read_text_rows, features, gen_kwargs=options))
    # A stream makes a table of each single value of a generator: some 100 microseconds.
    blocks = IterableDataset.from_generator(
        _read_text_blocks, Features(dict.fromkeys(header, List(Value("string")))), gen_kwargs=options
    )
    stream = blocks.with_format("arrow").map(_flatten, batched=True, batch_size=1, features=features)
    return normalize_text_rows(stream.with_format(None))


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
    ```
    """
    check_type("dataset", dataset, Dataset, IterableDataset)
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


def _read_text_rows(
    paths: list[str], header: tuple[str, ...], delimiter: str, version: str
) -> Iterator[dict[str, str]]:
    empty = dict.fromkeys(header, "")
    for path in paths:
        try:
            with fsspec.open(path, "rt", encoding="utf-8-sig", newline="", compression="infer") as file:
                rows = csv.reader(file, delimiter=delimiter)
                next(rows)
                for row in rows:
                    if row:
                        yield dict(zip(header, row, strict=True)) if len(row) == len(header) else empty
        except (UnicodeDecodeError, csv.Error) as error:
            raise CorruptFileError(f"{path!r} can't be read as CSV in UTF-8: {error}") from error


def _read_text_blocks(**options: Any) -> Iterator[dict[str, list[str]]]:
    rows = _read_text_rows(**options)
    while block := list(islice(rows, _BLOCK_SIZE)):
        yield {name: [row[name] for row in block] for name in block[0]}


def _flatten(blocks: pa.Table) -> pa.Table:
    return pa.table({name: pc.list_flatten(blocks[name]) for name in blocks.column_names})


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


def _write_arrow(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in tables:
            writer.write_table(table)
