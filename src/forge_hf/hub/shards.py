# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Finished pieces of a long job on disk, by several processes, any of which may be killed and go on later."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CorruptFileError
from .writing import explain_storage_errors, lock_file


__all__ = ["Shards"]

logger = logging.getLogger(__name__)

_MAGIC = b"forge_hf shards "
_HEADER = re.compile(rb"shard (\d{1,15}) (\d{1,15}) ([0-9a-f]{32})\n")
_LONGEST_HEADER = 80


class _Place(NamedTuple):
    path: Path
    offset: int
    size: int
    digest: str


class Shards:
    """
    Finished shards of a long job: bytes by number.

    Each process appends to a file of its own beside `path` (`.part-0000` and so on), which begins with the settings of
    the job; each shard has its BLAKE2b checksum. A job that goes on reads every part once. What a kill left of a shard
    at the end is cut off, and a shard that doesn't fit its checksum counts as not finished.

    Reading is for any process at any time; writing is between `with shards:`, after all processes have read.

    Args:
        path (`str` or `os.PathLike`):
            What the job makes in the end. The parts lie beside it.
        settings (`Mapping`):
            Everything that the shards depend on, as JSON can write it.
        part (`int`, *optional*, defaults to 0):
            Number of this process.

    Raises:
        `ValueError`: A part is of a job with other settings.
        [`CorruptFileError`]: A file of a part's name isn't one.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.hub import Shards

    >>> path = f"{tempfile.mkdtemp()}/codes"
    >>> with Shards(path, {"seed": 0}) as shards:
    ...     shards.write(3, b"some bytes")
    >>> Shards(path, {"seed": 0}).read(3)
    b'some bytes'
    >>> Shards.remove(path)
    ```
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any], part: int = 0):
        self.path, self.settings = Path(path), settings
        self._own = self.path.with_name(f"{self.path.name}.part-{part:04d}")
        self._places: dict[int, _Place] = {}
        self._end = self._size = 0  # of what is whole in the own part, and of all of it
        for other in find_parts(self.path):
            size, end = other.stat().st_size, self._scan(other)
            if other == self._own:
                self._size, self._end = size, end

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> "Shards":
        self._own.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(lock_file(self._own))
            size = self._own.stat().st_size if self._own.exists() else 0
            if size != self._size:  # another job wrote to it, or removed it, since it was read
                self._places = {number: place for number, place in self._places.items() if place.path != self._own}
                self._end = self._scan(self._own) if size else 0
            self._file = stack.enter_context(open(self._own, "ab", buffering=0))
            self._file.truncate(self._end)
            if self._end == 0:
                self._append(_settings_line(self.settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def write(self, number: int, data: bytes) -> None:
        """
        Appends a shard, and hands it to the system.

        Raises:
            [`StorageError`]: The disk is full, over quota, or fails. The shards before stay.
        """
        digest = _digest(number, data)
        header = b"shard %d %d %s\n" % (number, len(data), digest.encode())
        offset = self._end + len(header)
        self._append(header + data)
        self._places[number] = _Place(self._own, offset, len(data), digest)

    def read(self, number: int) -> bytes:
        """
        The bytes of a finished shard.

        Raises:
            [`CorruptFileError`]: They have changed since.
        """
        path, offset, size, digest = self._places[number]
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if _digest(number, data) != digest:
            raise CorruptFileError(f"Shard {number} of {path} was damaged meanwhile. Run it again.")
        return data

    @staticmethod
    def remove(path: str | os.PathLike) -> None:
        """Removes all parts beside `path`: when what the job makes is whole."""
        for part in find_parts(Path(path)):
            part.unlink()

    def _append(self, data: bytes) -> None:
        # Unbuffered: what didn't fit on the disk must not be tried again when the file closes.
        with explain_storage_errors(self._own):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except BaseException:
                with suppress(OSError):
                    self._file.truncate(self._end)
                raise
        self._end += len(data)

    def _scan(self, part: Path) -> int:
        """Finds the whole shards of a part, and where they end."""
        size = part.stat().st_size
        with open(part, "rb") as file:
            line = file.readline()
            if not _MAGIC.startswith(line[: len(_MAGIC)]):
                raise CorruptFileError(f"{part} isn't a part of any job, and is where one would be written. Move it.")
            digest, _, text = line[len(_MAGIC) :].partition(b" ")
            if digest.decode(errors="replace") != _digest(0, text):
                if line.endswith(b"\n"):
                    logger.warning(f"The head of {part} is damaged: all that is in it is done again.")
                return 0
            if line != _settings_line(self.settings):
                raise ValueError(
                    f"{part} is of a run with other settings ({_differences(text, self.settings)}). Go on with the "
                    f"same, or remove {self.path}.part-* and begin anew."
                )
            end = file.tell()
            while end < size:
                header = _HEADER.match(file.readline(_LONGEST_HEADER))
                if header is None or file.tell() + int(header[2]) > size:
                    # A kill leaves the beginning of a shard at the end of its part; it may also be damage.
                    logger.warning(f"{part} has no whole shard after byte {end:,}: what was there is done again.")
                    break
                place = _Place(part, file.tell(), int(header[2]), header[3].decode())
                number, data = int(header[1]), file.read(place.size)
                end = file.tell()
                if _digest(number, data) == place.digest:
                    self._places[number] = place
                else:
                    logger.warning(f"Shard {number} of {part} doesn't fit its checksum, and is done again.")
        return end


def find_parts(path: Path) -> list[Path]:
    """The parts that lie beside `path`."""
    name = re.compile(rf"{re.escape(path.name)}\.part-\d{{4,}}")
    return sorted(part for part in path.parent.glob("*") if name.fullmatch(part.name))


def _digest(number: int, data: bytes) -> str:
    digest = hashlib.blake2b(str(number).encode() + b"\n", digest_size=16)
    digest.update(data)
    return digest.hexdigest()


def _settings_line(settings: Mapping[str, Any]) -> bytes:
    text = f"{json.dumps(settings, sort_keys=True)}\n".encode()
    return _MAGIC + _digest(0, text).encode() + b" " + text


def _differences(text: bytes, settings: Mapping[str, Any]) -> str:
    before, now = json.loads(text), json.loads(json.dumps(settings))
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"`{name}` {before.get(name)!r} then, {now.get(name)!r} now" for name in names)
