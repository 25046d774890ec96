# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item ids, all `str` or all `int`, as arrays."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..checks import shorten


__all__ = ["as_id_array", "name_first", "refuse_surrogates"]

_SHOWN = 5  # how many offenders an error message names


def as_id_array(item_ids: Sequence[str] | Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
    """Item ids as an int64 array, or as an object array of `str`: an object array keeps every string as it is."""
    if isinstance(item_ids, np.ndarray | torch.Tensor):
        item_ids = item_ids.tolist()
    if isinstance(item_ids, str) or not isinstance(item_ids, Iterable):
        raise ValueError(f"`item_ids` must be a sequence of ids, got {shorten(item_ids)}.")
    item_ids = item_ids if isinstance(item_ids, Sequence) else list(item_ids)
    kinds = set(map(type, item_ids))
    if kinds <= {str, np.str_}:
        array = np.empty(len(item_ids), dtype=object)
        array[:] = [str(item) for item in item_ids] if np.str_ in kinds else item_ids
        return array
    if all(issubclass(kind, int | np.integer) and not issubclass(kind, bool) for kind in kinds):
        try:
            return np.array(item_ids, dtype=np.int64)
        except OverflowError as error:
            raise ValueError("`item_ids` that are `int` must fit into 64 bits; give larger ones as `str`.") from error
    raise ValueError(f"`item_ids` must be all `str` or all `int`, got {sorted(kind.__name__ for kind in kinds)}.")


def name_first(values: Sequence) -> str:
    """The first few of `values`, for a message."""
    return ", ".join(repr(value) for value in list(values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")


def refuse_surrogates(ids: np.ndarray) -> None:
    """Refuses ids with halves of a character that came apart, which no file of UTF-8 can hold."""
    try:
        "".join(ids).encode("utf-8")
    except UnicodeEncodeError as error:
        wrong = name_first([item for item in ids if any("\ud800" <= sign <= "\udfff" for sign in item)])
        raise ValueError(f"`item_ids` must be Unicode, got {wrong}, which UTF-8 can't hold.") from error
