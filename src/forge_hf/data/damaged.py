# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Damaged files: one error of this package for what `datasets`, Arrow, JSON and Python's codecs raise on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.exceptions import DatasetGenerationError

from ..errors import CorruptFileError, ForgeError


__all__ = ["refuse_damaged"]


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
    except (DatasetGenerationError, ValueError, TypeError, KeyError) as error:  # Arrow's and JSON's are ValueErrors
        cause = error.__cause__ or error
        if isinstance(cause, ForgeError):
            raise cause from None
        raise error_class(
            f"{str(path)!r} is damaged, or isn't what its name says: {type(cause).__name__}: {cause}"
        ) from error
