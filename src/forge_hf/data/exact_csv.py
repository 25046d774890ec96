# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
CSV whose values are texts and stay what they are.

Readers that guess types make the item ids `"007"` and `"1e5"` numbers, and `"NA"`, `"null"` and `"nan"`, all of them
possible in base 62, nothing at all.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv
from tqdm.auto import tqdm

from ..checks import shorten
from ..errors import CorruptFileError
from ..hub.writing import write_then_rename
from .malformed import MalformedRows


__all__ = ["TextBatch", "read_header", "read_texts", "write_texts"]

BLOCK_SIZE = 1 << 24
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


class TextBatch(NamedTuple):
    """Some rows of a CSV file: a table of strings without nulls, and the line number of each row."""

    table: pa.Table
    lines: np.ndarray

    def keep(self, kept: np.ndarray, malformed: MalformedRows, reason: str) -> "TextBatch":
        """The rows of a mask; the others are recorded."""
        if kept.all():
            return self
        malformed.record(self.lines[~kept], reason)
        return TextBatch(self.table.filter(pa.array(kept)), self.lines[kept])


def read_header(path: Path | str, delimiter: str = ",") -> list[str]:
    """
    Names in the first line of a CSV file, which may be a URL (`str`).

    Raises:
        `FileNotFoundError`: if there is no such file.
        [`CorruptFileError`]: if it is empty, isn't UTF-8, or names a column twice.
    """
    is_url = "://" in str(path)
    if not is_url and not Path(path).is_file():
        raise FileNotFoundError(f"`path` {str(path)!r} is not a file.")
    try:
        with fsspec.open(path, compression="infer") if is_url else pa.OSFile(str(path)) as file:
            unpacked = file if is_url else _unpacked(file, Path(path))
            line = unpacked.read(1 << 16).splitlines()[0].decode("utf-8-sig")
        header = next(csv.reader([line], delimiter=delimiter))
    except FileNotFoundError:
        raise
    except (UnicodeDecodeError, IndexError, StopIteration, OSError, pa.ArrowInvalid, csv.Error) as error:
        raise CorruptFileError(f"{str(path)!r} must be UTF-8 text whose first line names the columns.") from error
    if len(set(header)) != len(header):
        raise CorruptFileError(f"{str(path)!r} names a column twice: {header}.")
    return header


def read_texts(
    path: Path, columns: Sequence[str], malformed: MalformedRows, delimiter: str = ",", title: str | None = None
) -> Iterator[TextBatch]:
    """
    Reads columns of a CSV file as strings, block by block, at constant memory.

    Empty values are empty strings; nothing is null. Empty lines, and lines that repeat the header (of files that were
    put together), are passed over. Lines with too few or too many values are recorded in `malformed`, as many rows as
    come out are `seen`, and it is checked after each block. A value never goes over several lines: that is how a quote
    too many looks, which would swallow the rows up to the next one.

    Args:
        path (`Path`):
            A file in UTF-8, which may be packed: `.gz`, `.bz2` or `.zst`.
        columns (`Sequence[str]`):
            Columns to read, in this order.
        malformed ([`MalformedRows`]):
            Where malformed rows are recorded.
        delimiter (`str`, *optional*, defaults to `","`):
            What parts the values.
        title (`str`, *optional*):
            Title of a progress bar.

    Raises:
        [`CorruptFileError`]: if a column is missing, a quote isn't closed in its line, or the file isn't CSV in UTF-8.
        [`MalformedRowsError`]: if too many rows are malformed.
    """
    header = read_header(path, delimiter)
    missing = [name for name in columns if name not in header]
    if missing:
        raise CorruptFileError(f"{str(path)!r} lacks the columns {missing}; it has {header}.")
    skipped: list[int] = []  # line numbers
    unclosed: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        skipped.append(row.number)
        if "\n" in row.text or "\r" in row.text:
            unclosed.append(row.number)
        return "skip"

    def refuse_unclosed() -> None:
        if unclosed:
            raise CorruptFileError(
                f"{str(path)!r} has a quote that isn't closed in its line, {min(unclosed)}: remove it, or double it "
                "and quote the value."
            )

    start = num_skipped = 0
    file = pa.OSFile(str(path))
    progress = tqdm(desc=title, total=path.stat().st_size, unit="B", unit_scale=True, delay=5, disable=title is None)
    with file, progress:
        try:
            reader = pa_csv.open_csv(
                _unpacked(file, path),
                # Rows have numbers only where one thread reads them.
                pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_SIZE),
                pa_csv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,  # else blocks may begin in the midst of them, and nobody sees
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                # Blocks are parsed ahead, so some of `skipped` come after this batch: the i-th good row of the file
                # has line i + 2, and one more for each bad line before.
                places = np.arange(start, start + len(batch))
                before = np.searchsorted(np.array(skipped, np.int64) - np.arange(len(skipped)), places + 2, "right")
                lines = places + 2 + before
                for column in batch.columns:
                    unclosed.extend(lines[pc.match_substring_regex(column, "[\r\n]").to_numpy(zero_copy_only=False)])
                refuse_unclosed()
                start += len(batch)
                malformed.seen(len(batch) + len(skipped) - num_skipped)
                malformed.record(skipped[num_skipped:], f"not {len(header)} values")
                num_skipped = len(skipped)
                progress.update(file.tell() - progress.n)
                table = pa.Table.from_batches([batch.select(list(columns))])
                kept = ~(_all_equal(table, [""] * len(columns)) | _all_equal(table, columns))
                malformed.seen(kept.sum() - len(kept))
                yield TextBatch(table.filter(pa.array(kept)), lines[kept])
                malformed.check()
            refuse_unclosed()
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptFileError(f"{str(path)!r} can't be read as CSV in UTF-8: {error}") from error


def write_texts(path: Path, header: Sequence[str], batches: Iterable[Iterable[Sequence[Any]]]) -> None:
    """
    Writes CSV in UTF-8, quoted where needed, to a temporary file that then takes the place of `path`.

    Args:
        path (`Path`):
            The file to write.
        header (`Sequence[str]`):
            Names of the columns.
        batches (`Iterable[Iterable[Sequence]]`):
            Rows of values, in batches; the first of a row is never empty.

    Raises:
        `ValueError`: if a value couldn't be read back: it has a line end in it, isn't Unicode, or is the first of its
            row and empty.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(header)
            for rows in map(list, batches):
                text = io.StringIO(newline="")
                csv.writer(text).writerows(rows)
                lines = text.getvalue()
                # One line a row, and none that begins with an empty value.
                if not lines.count("\n") == lines.count("\r") == len(rows) or "\n," in f"\n{lines}":
                    raise ValueError(f"`{header[0]}` and the other columns {_unreadable(rows)}")
                try:
                    file.write(lines)
                except UnicodeEncodeError as error:
                    raise ValueError(f"`{header[0]}` and the other columns must be Unicode: {error}.") from error

    path.parent.mkdir(parents=True, exist_ok=True)
    write_then_rename(path, write)


def _unpacked(file: pa.NativeFile, path: Path) -> pa.NativeFile:
    codec = _CODECS.get(path.suffix)
    return pa.CompressedInputStream(file, codec) if codec else file


def _all_equal(table: pa.Table, values: Sequence[str]) -> np.ndarray:
    """Rows that hold exactly these values."""
    equal = np.ones(len(table), dtype=bool)
    for column, value in zip(table.columns, values, strict=True):
        equal &= pc.equal(column, value).to_numpy()
    return equal


def _unreadable(rows: Sequence[Sequence[Any]]) -> str:
    """What is wrong with the first row that couldn't be read back."""
    for row in rows:
        if row[0] in ("", None):
            return f"must not begin with an empty value, got {shorten(row)}."
        if any(end in str(value) for value in row for end in "\r\n"):
            return f"must have no line ends, got {shorten(row)}."
    return "can't be written as one line a row."
