# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks of arguments. What they raise names the argument, what would do and the value got."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from .errors import InvalidSequencesError


__all__ = [
    "check_dataset",
    "check_histories",
    "check_integer",
    "check_integers",
    "check_number",
    "check_type",
    "shorten",
    "to_python",
]

_LISTS = Sequence | np.ndarray | torch.Tensor


def check_integer(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> None:
    """Refuses, by a `ValueError`, what isn't an integer from `minimum` to `maximum`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be an integer, got {shorten(value)}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}, got {value}.")


def check_integers(name: str, values: Any, minimum: int = 1) -> None:
    """Refuses, by a `ValueError`, what isn't one or more integers from `minimum` on."""
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or len(values) == 0:
        raise ValueError(f"`{name}` must be one or more integers, got {shorten(values)}.")
    for value in values:
        check_integer(name, value, minimum)


def check_number(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> None:
    """Refuses, by a `ValueError`, what isn't a finite number from `minimum` to `maximum`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {shorten(value)}.")
    if not minimum <= value <= maximum:
        bounds = f"at least {minimum:g}" if maximum == math.inf else f"between {minimum:g} and {maximum:g}"
        raise ValueError(f"`{name}` must be {bounds}, got {value}.")


def check_type(name: str, value: Any, *kinds: type) -> None:
    """Refuses, by a `TypeError`, what is of another class."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"`{name}` must be a {wanted}, got {shorten(value)} of type {type(value).__name__}.")


def check_dataset(name: str, dataset: Any) -> None:
    """Refuses, by a `TypeError`, what isn't a `datasets.Dataset`: a list, a stream, or all splits in one."""
    from datasets import Dataset  # imported already by whoever has one

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset`, got {type(dataset).__name__}. Make one with `Dataset.from_dict` "
            "or `Dataset.from_list`; of a `DatasetDict`, give one split."
        )


def check_histories(histories: Any, name: str = "histories") -> None:
    """Refuses, by an [`InvalidSequencesError`], what isn't a list of item ids for each user, none of them empty."""
    if isinstance(histories, str) or not isinstance(histories, _LISTS):
        raise InvalidSequencesError(f"`{name}` must be a list of lists of item ids, got {shorten(histories)}.")
    for history in histories:
        if isinstance(history, str | int):
            raise InvalidSequencesError(
                f"`{name}` must hold a list of item ids for each user, got the single id {shorten(history)} in place "
                "of one. For one user, give a list of one list."
            )
        if not isinstance(history, _LISTS) or getattr(history, "ndim", 1) == 0:
            raise InvalidSequencesError(
                f"`{name}` must hold a list of item ids for each user, got {shorten(history)} of type "
                f"{type(history).__name__}."
            )
    empty = [row for row, history in enumerate(histories) if len(history) == 0]
    if empty:
        raise InvalidSequencesError(
            f"`{name}` must hold at least one item each, but {len(empty)} are empty: rows "
            f"{', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''}. Leave them out, or recommend what "
            "is popular."
        )


def to_python(value: Any) -> Any:
    """The numbers of NumPy and torch, their arrays, and ranges, as numbers and lists; all else as it is."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, range) else value


def shorten(value: Any, length: int = 80) -> str:
    """How a message shows a value."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
