# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Lines of text for numbered rows, written by several processes, any of which may be killed and go on later."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import CorruptFileError
from ..hub import write_then_rename


__all__ = ["PartFile", "find_parts", "finished_rows", "merge_parts"]

_SHOWN = 5


class PartFile:
    """
    The lines of one process, in the order in which it wrote them. Each begins with its row's number and a tab; the
    first line holds the settings of the run.

    What a kill left of a line at the end is cut off, and lines that follow are appended.

    Args:
        path (`Path`): The final file, beside which the part lies.
        number (`int`): Which part.
        settings (`Mapping`): What must be the same when the run goes on.
    """

    def __init__(self, path: Path, number: int, settings: Mapping[str, Any]):
        part = path.with_name(f"{path.name}.part-{number:04d}")
        end = _scan(part, settings).end if part.exists() else 0
        self._file = open(part, "ab")
        self._file.truncate(end)
        if end == 0:
            self._file.write(_header(settings))
            self._file.flush()

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, rows: Sequence[int], lines: Sequence[str]) -> None:
        """Appends one line for each row, and hands them to the system."""
        self._file.write(b"".join(b"%d\t%s\n" % (row, line.encode()) for row, line in zip(rows, lines, strict=True)))
        self._file.flush()


def find_parts(path: Path) -> list[Path]:
    """The parts that lie beside the final file."""
    return sorted(part for part in path.parent.iterdir() if part.name.startswith(f"{path.name}.part-"))


def finished_rows(path: Path, settings: Mapping[str, Any], num_rows: int) -> np.ndarray:
    """
    Which rows have their line in some part.

    Raises:
        `ValueError`: if a part is of a run with other settings.
        [`CorruptFileError`]: if a part has lines that no run wrote.
    """
    finished = np.zeros(num_rows, dtype=bool)
    for part in find_parts(path):
        finished[_scan(part, settings).rows] = True
    return finished


def merge_parts(path: Path, settings: Mapping[str, Any], num_rows: int) -> None:
    """
    Writes the lines of all parts to the final file, in the order of their rows, and then removes the parts.

    Raises:
        [`CorruptFileError`]: if a row is missing.
    """
    parts = find_parts(path)
    part_of, offset_of = np.full(num_rows, -1), np.zeros(num_rows, dtype=np.int64)
    for number, part in enumerate(parts):
        scan = _scan(part, settings)
        part_of[scan.rows], offset_of[scan.rows] = number, scan.offsets
    missing = np.flatnonzero(part_of < 0)
    if len(missing):
        named = ", ".join(map(str, missing[:_SHOWN].tolist()))
        raise CorruptFileError(f"{len(missing)} rows are in no part of {path}: {named}. Run it again.")

    def write(temporary: Path) -> None:
        files: list[BinaryIO] = [open(part, "rb") for part in parts]
        try:
            with open(temporary, "wb") as merged:
                for number, offset in zip(part_of.tolist(), offset_of.tolist(), strict=True):
                    files[number].seek(offset)
                    merged.write(files[number].readline().partition(b"\t")[2])
                merged.flush()
                os.fsync(merged.fileno())
        finally:
            for file in files:
                file.close()

    write_then_rename(path, write)
    for part in parts:
        part.unlink()


class _Scan(NamedTuple):
    """Rows of a part, where their lines begin, and where the last whole line ends."""

    rows: np.ndarray
    offsets: np.ndarray
    end: int


def _scan(part: Path, settings: Mapping[str, Any]) -> _Scan:
    rows, offsets = [], []
    with open(part, "rb") as file:
        header = file.readline()
        end = len(header)
        if not header.endswith(b"\n"):
            return _Scan(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        if header != _header(settings):
            raise ValueError(
                f"{part} is of a run with other settings ({_differences(header, settings)}). Go on with the same, or "
                "remove the parts and begin anew."
            )
        for line in file:
            if not line.endswith(b"\n"):
                break
            number = line[:20].partition(b"\t")[0]
            if not number.isdigit() or int(number) >= settings["num_rows"]:
                raise CorruptFileError(f"{part} has a line that isn't of this run, at byte {end}. Remove the parts.")
            rows.append(int(number))
            offsets.append(end)
            end += len(line)
    return _Scan(np.array(rows, np.int64), np.array(offsets, np.int64), end)


def _header(settings: Mapping[str, Any]) -> bytes:
    return f"settings\t{json.dumps(settings, sort_keys=True)}\n".encode()


def _differences(header: bytes, settings: Mapping[str, Any]) -> str:
    try:
        before = dict(json.loads(header.partition(b"\t")[2]))
    except (ValueError, TypeError):
        return "it isn't a part of any"
    now = json.loads(json.dumps(settings))
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"`{name}` {before.get(name)!r} then, {now.get(name)!r} now" for name in names)
