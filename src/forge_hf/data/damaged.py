# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Damaged files: one error of this package for what `datasets`, Arrow, JSON and Python's codecs raise on them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from datasets.exceptions import DatasetGenerationError

from ..checks import check_dataset
from ..errors import CorruptFileError, ForgeError


__all__ = ["is_unicode", "open_npy", "refuse_damaged", "refuse_null_lines", "validate_mapped"]


@contextmanager
def refuse_damaged(path: str | Path, error_class: type[ForgeError] = CorruptFileError) -> Iterator[None]:
    """
    To be put around the opening of a file, and no more than that.

    Args:
        path (`str` or `Path`):
            The file, for the message.
        error_class (`type`, *optional*, defaults to [`CorruptFileError`]):
            What to raise.

    Raises:
        [`CorruptFileError`], or `error_class`: if the file is truncated, or isn't what its name says. What a generator
            of this package raised while `datasets` ran it comes out as it is.
    """
    try:
        yield
    except (DatasetGenerationError, ValueError, TypeError, KeyError, OSError) as error:
        # Arrow's and JSON's are ValueErrors, Parquet's an OSError without a number; one with a number is the system's.
        if isinstance(error, OSError) and error.errno is not None or isinstance(error, FileNotFoundError):
            raise
        cause = error.__cause__ or error
        if isinstance(cause, ForgeError):
            raise cause from None
        raise error_class(
            f"{str(path)!r} is damaged, or isn't what its name says: {type(cause).__name__}: {cause}"
        ) from error


def open_npy(path: Path, error_class: type[ForgeError] = CorruptFileError) -> np.ndarray:
    """
    Maps the array of an `.npy` file into memory.

    Raises:
        [`CorruptFileError`], or `error_class`: if it is truncated, an archive, or has objects in it.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, SyntaxError, TokenError, TypeError, OverflowError) as error:  # of its header
        raise error_class(
            f"{str(path)!r} is not a plain .npy array (an archive is to be named .npz): {error}"
        ) from error


def is_unicode(array: np.ndarray) -> bool:
    """Whether an array of texts, or of something else, has characters alone and no numbers that stand for none."""
    if array.dtype.kind != "U":
        return True
    points = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    return not ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any()


def refuse_null_lines(path: Path) -> None:
    """
    Refuses JSON lines one of which is `null`: where a block begins with it, Arrow's reader (26.0) ends the process.

    Raises:
        [`CorruptFileError`]: if there is one.
    """
    if path.stat().st_size == 0:
        return
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        if content[:4096].lstrip()[:4] == b"null" or content.find(b"\nnull") >= 0:
            raise CorruptFileError(f"{str(path)!r} must hold JSON objects, one a line, and has a line that is null.")


def validate_mapped(dataset: Any) -> None:
    """
    Looks over the Arrow table that a dataset maps, whose offsets Arrow follows wherever they lead when it is read: a
    damaged one ends the process. Numbers aren't read. To be called within `refuse_damaged`.
    """
    check_dataset("path", dataset)
    dataset.data.validate(full=True)
    copy.deepcopy(dataset.data.schema)  # reads the names of columns, which may not be UTF-8
