# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How everything is written: whole or not at all, by one process at a time, with a clear error when a disk is full."""

import errno
import filecmp
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..checks import shorten
from ..errors import CorruptFileError, OutputInUseError, StorageError


__all__ = [
    "explain_storage_errors",
    "finish_interrupted",
    "lock_file",
    "lock_folder",
    "write_folder",
    "write_json",
    "write_then_rename",
]

# Beside what is written: files that aren't whole yet, and files that are but haven't all reached their places.
_UNFINISHED, _WHOLE, _LOCK = ".unfinished", ".whole", ".lock"
_STALE_FILE = ".stale.json"
# Without these nothing is loaded: they leave first and arrive last, so that nobody loads the new beside the old.
_KEY_FILES = {"adapter_config.json", "config.json", "quality.json", "semantic_ids.json", "tokenizer_config.json"}
_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_CARD_FILE = "README.md"
_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_MOVE_SECONDS = 30  # how long a reader waits for a writer who is moving files to their places

# Locks that this process holds, and which thread does: one that writes into its own output doesn't refuse itself.
_held: dict[tuple[int, str], int] = {}
_held_guard = threading.Lock()


@contextmanager
def lock_folder(folder: str | os.PathLike, timeout: float = 0) -> Iterator[None]:
    """
    Keeps other processes from writing to a folder, which is made if there is none. The lock ends with its process,
    however that ends. The same thread may take it again. What a killed process has left whole is moved to its place.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        timeout (`float`, *optional*, defaults to 0):
            Seconds to wait for a process that is writing.

    Raises:
        [`OutputInUseError`]: Another process, or another thread, is writing to the folder.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.hub import lock_folder

    >>> with lock_folder(tempfile.mkdtemp()):
    ...     pass
    ```
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / _LOCK, folder, timeout):
        _move_in(folder)
        yield


@contextmanager
def lock_file(path: str | os.PathLike, timeout: float = 0) -> Iterator[None]:
    """[`lock_folder`] for one file, whose folder exists."""
    path = Path(path)
    with _lock(path.with_name(f".{path.name}{_LOCK}"), path, timeout):
        yield


@contextmanager
def _lock(lock_path: Path, output: Path, timeout: float) -> Iterator[None]:
    key, thread = (os.getpid(), os.path.realpath(lock_path)), threading.get_ident()
    if _held.get(key) == thread:
        yield
        return
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.05)
    except Timeout:
        raise OutputInUseError(
            f"Another process is writing to {output}. Wait until it has ended, or give another place to write to."
        ) from None
    with _held_guard:
        _held[key] = thread
    try:
        yield
    finally:
        with _held_guard:
            del _held[key]
        try:
            # While it is held: whoever opened it before notices that it's gone, and tries again.
            with suppress(OSError):
                lock_path.unlink()
        finally:
            lock.release()


@contextmanager
def explain_storage_errors(output: Path) -> Iterator[None]:
    """
    Turns errors of a disk that is full or fails, whoever found them, into one that says so.

    Raises:
        [`StorageError`]: The disk is full, over quota, or fails.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number not in _STORAGE_ERRORS:
            raise
        raise StorageError(
            number, f"{os.strerror(number)}: {output} isn't written, and what was there stays. Make room and try again"
        ) from error


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # what safetensors says
    if found:
        return int(found[1])
    # What `torch.save` says, whatever the reason.
    is_of_torch = isinstance(error, RuntimeError) and re.search("inline_container.cc|iostream error", str(error))
    return errno.EIO if is_of_torch else None


def write_then_rename(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Lets `write` fill a temporary file beside `path`, and only then puts it in the place of `path`.

    Raises:
        [`OutputInUseError`]: Another process is writing `path`.
        [`StorageError`]: The disk is full, over quota, or fails. What was there stays.
    """
    with explain_storage_errors(path), lock_file(path):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """
    Writes JSON, indented, whole or not at all, into a folder that is made if there is none.

    Raises:
        [`OutputInUseError`], [`StorageError`]: As [`write_then_rename`].
    """
    path, text = Path(path), json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_then_rename(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def write_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder to write several files to, and then puts them all into `folder`, or none.

    The files of `folder` that aren't written stay, but for weights when weights are written. Whole files are first
    gathered in `folder/.whole`, by one rename; from then on a kill can't undo them: whatever of this package reads
    or writes the folder next moves the rest to its place. Others who read (`AutoModel.from_pretrained`) find the old
    or the new where one file differs, such as the weights of the same model; else, after a kill in the midst of the
    renames, no config until [`finish_interrupted`] has gone over the folder.

    Args:
        folder (`str` or `os.PathLike`):
            The folder, made if there is none.

    Yields:
        `Path`: where to write. It holds the card of `folder`, if there is one, for those who change it.

    Raises:
        [`OutputInUseError`]: Another process is writing to the folder.
        [`StorageError`]: The disk is full, over quota, or fails. What was there stays.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.hub import write_folder

    >>> output = Path(tempfile.mkdtemp())
    >>> with write_folder(output) as folder:
    ...     _ = (folder / "a.txt").write_text("a")
    ...     _ = (folder / "b.txt").write_text("b")
    >>> sorted(path.name for path in output.iterdir())
    ['a.txt', 'b.txt']
    ```
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        with explain_storage_errors(folder), lock_folder(folder):
            unfinished = folder / _UNFINISHED
            if unfinished.exists():  # of a process that was killed
                shutil.rmtree(unfinished)
            try:
                unfinished.mkdir()
                if (folder / _CARD_FILE).is_file():
                    shutil.copy(folder / _CARD_FILE, unfinished)
                yield unfinished
                names = _names(unfinished)
                if any(map(_WEIGHTS.fullmatch, names)):
                    old = [path.name for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name)]
                    (unfinished / _STALE_FILE).write_text(json.dumps(sorted({*old} - {*names})), encoding="utf-8")
                    names.append(_STALE_FILE)
                for name in names:
                    sync(unfinished / name)
                os.rename(unfinished, folder / _WHOLE)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            _move_in(folder)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it isn't empty, then
                folder.rmdir()
        raise


def finish_interrupted(folder: str | os.PathLike) -> None:
    """Moves files to their places that a killed process has written whole: for those who read them."""
    if Path(folder, _WHOLE).is_dir():
        with lock_folder(folder, timeout=_MOVE_SECONDS):
            pass  # done by taking it


def _move_in(folder: Path) -> None:
    """May be interrupted anywhere, and is then done again for what is left."""
    whole = folder / _WHOLE
    if not whole.is_dir() or whole.is_symlink():
        return
    names = sorted(_names(whole), key=lambda name: (Path(name).name in _KEY_FILES, name))
    stale = []
    if _STALE_FILE in names:
        names.remove(_STALE_FILE)
        stale = _read_stale(whole / _STALE_FILE)
    # A folder may come from anybody: nothing outside of it is written or removed.
    for name in names:
        if not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
            raise CorruptFileError(f"{whole / name} can't be moved to its place, which is outside of {folder}.")
    # Readers who know nothing of `.whole` find the old files or the new ones where one rename makes the difference.
    # Else they find no config in the meantime, rather than one that isn't of the weights.
    if stale or sum(not _is_in_place(whole / name, folder / name) for name in names) > 1:
        for name in [*(name for name in reversed(names) if Path(name).name in _KEY_FILES), *stale]:
            (folder / name).unlink(missing_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole / name, folder / name)
    shutil.rmtree(whole)


def _read_stale(path: Path) -> list[str]:
    """The weights that give way to those that were written."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} isn't JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and _WEIGHTS.fullmatch(name) for name in names):
        raise CorruptFileError(f"{path} must list names of weights, got {shorten(names)}. Remove {path.parent}.")
    return names


def _is_in_place(new: Path, old: Path) -> bool:
    """Whether a move changes nothing for who loads the folder; weights aren't read for that."""
    return not _WEIGHTS.fullmatch(new.name) and old.is_file() and filecmp.cmp(new, old, shallow=False)


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def sync(path: Path) -> None:
    """
    Waits until a file, or the names in a folder, are on the disk, which may find only then that it is full. On
    Windows, where what can't be written to can't be waited for, not for folders and read-only files.
    """
    writes = os.name == "nt"
    if writes and not (path.is_file() and os.access(path, os.W_OK)):
        return
    descriptor = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
