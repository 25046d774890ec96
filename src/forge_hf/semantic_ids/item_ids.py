# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item ids, all `str` or all `int`, as arrays that can be mapped from a file and searched."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from ..checks import shorten
from ..errors import DuplicateItemError
from .row_index import RowIndex, hash_numbers, hash_texts


__all__ = ["ItemIds", "name_first"]

_SHOWN = 5  # how many offenders an error message names
_CHUNK = 2**18  # ids that are looked up at once


class ItemIds:
    """
    Item ids in arrays: numbers, or the UTF-8 bytes of all strings and where each begins.

    Args:
        values (`np.ndarray`):
            int64 numbers of shape `(num_items,)`, or the uint8 bytes of all strings.
        offsets (`np.ndarray` of dtype int64 and shape `(num_items + 1,)`, *optional*):
            For strings, where each begins, and the end of the last.
        index ([`RowIndex`], *optional*):
            The ids by their hash. By default it is made when it is needed.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray | None = None, index: RowIndex | None = None):
        self.values = values
        self.offsets = offsets
        if index is not None:
            self.index = index

    @classmethod
    def of(cls, item_ids: Sequence[str] | Sequence[int] | np.ndarray | torch.Tensor) -> "ItemIds":
        """Packs ids. Raises `ValueError` where they are neither all `str` nor all `int`."""
        if isinstance(item_ids, np.ndarray | torch.Tensor):
            item_ids = item_ids.tolist()
        if isinstance(item_ids, str) or not isinstance(item_ids, Iterable):
            raise ValueError(f"`item_ids` must be a sequence of ids, got {shorten(item_ids)}.")
        item_ids = item_ids if isinstance(item_ids, Sequence) else list(item_ids)
        kinds = set(map(type, item_ids))
        if kinds <= {str, np.str_}:
            return cls(*_pack(item_ids))
        if all(issubclass(kind, int | np.integer) and not issubclass(kind, bool) for kind in kinds):
            try:
                return cls(np.array(item_ids, dtype=np.int64))
            except OverflowError as error:
                raise ValueError(
                    "`item_ids` that are `int` must fit into 64 bits; give larger ones as `str`."
                ) from error
        raise ValueError(f"`item_ids` must be all `str` or all `int`, got {sorted(kind.__name__ for kind in kinds)}.")

    @property
    def kind(self) -> type:
        """`str` or `int`."""
        return int if self.offsets is None else str

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: np.ndarray | slice) -> list[str] | list[int]:
        """The ids of some rows."""
        if self.offsets is None:
            return self.values[rows].tolist()
        text = memoryview(np.ascontiguousarray(self.values))
        bounds = zip(self.offsets[:-1][rows].tolist(), self.offsets[1:][rows].tolist(), strict=True)
        return [str(text[start:stop], "utf-8") for start, stop in bounds]

    def of_rows(self, rows: np.ndarray) -> "ItemIds":
        """The ids of some rows, packed."""
        return ItemIds(self.values[rows]) if self.offsets is None else ItemIds.of(self.take(rows))

    def tolist(self) -> list[str] | list[int]:
        """All ids."""
        return self.take(slice(None))

    def find(self, wanted: "ItemIds") -> np.ndarray:
        """Row of each id of the same kind, the last of several, -1 where there is none: int64, as long as `wanted`."""
        rows = np.full(len(wanted), -1, dtype=np.int64)
        for start in range(0, len(wanted), _CHUNK):
            part = wanted._slice(start, start + _CHUNK)
            places, candidates = self.index.candidates(part.hashes())
            same = self._equal(candidates, part, places)
            rows[start + places[same]] = candidates[same]
        return rows

    @cached_property
    def index(self) -> RowIndex:
        """The ids by their hash."""
        return RowIndex.build(self.hashes())

    def hashes(self) -> np.ndarray:
        """Hashes of all ids, as uint64."""
        return hash_numbers(self.values) if self.offsets is None else hash_texts(self.values, self.offsets)

    def order(self) -> np.ndarray:
        """Rows in the order of their ids."""
        if self.offsets is None:
            return np.argsort(self.values, kind="stable")
        # Code points sort as UTF-8 bytes do, so the order is the same on every machine.
        ids = self.tolist()
        return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)

    def refuse_duplicates(self) -> None:
        """Raises [`DuplicateItemError`] if an id occurs more than once."""
        hashes = np.sort(self.hashes())
        if (hashes[1:] != hashes[:-1]).all():
            return
        repeated = (self.find(self) != np.arange(len(self))).nonzero()[0]
        if len(repeated):
            ids = list(dict.fromkeys(self.take(repeated)))
            raise DuplicateItemError(
                f"`item_ids` must be unique, but {len(ids)} occur more than once: {name_first(ids)}. "
                "Keep one row an item."
            )

    def _slice(self, start: int, stop: int) -> "ItemIds":
        if self.offsets is None:
            return ItemIds(self.values[start:stop])
        return ItemIds(self.values, self.offsets[start : stop + 1])

    def _equal(self, rows: np.ndarray, other: "ItemIds", places: np.ndarray) -> np.ndarray:
        """Whether the ids of `rows` are those of `other` at `places`."""
        if self.offsets is None:
            return self.values[rows] == other.values[places]
        first, other_first = self.offsets[rows], other.offsets[places]
        lengths = self.offsets[rows + 1] - first
        same = lengths == other.offsets[places + 1] - other_first
        # The bytes of all pairs that are equally long, in one line.
        pairs = same.nonzero()[0]
        lengths = lengths[pairs]
        pair = np.repeat(pairs, lengths)
        position = np.arange(len(pair)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        differ = self.values[first[pair] + position] != other.values[other_first[pair] + position]
        same[pair[differ]] = False
        return same


def _pack(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of all strings, and where each begins."""
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    try:
        text = "".join(ids).encode("utf-8")
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        if lengths.sum() != len(text):  # not only ASCII
            lengths = np.fromiter((len(item.encode("utf-8")) for item in ids), dtype=np.int64, count=len(ids))
    except UnicodeEncodeError as error:
        # Halves of a character that came apart.
        wrong = name_first([item for item in ids if any("\ud800" <= sign <= "\udfff" for sign in item)])
        raise ValueError(f"`item_ids` must be Unicode, got {wrong}, which UTF-8 can't hold.") from error
    np.cumsum(lengths, out=offsets[1:])
    return np.frombuffer(bytearray(text), dtype=np.uint8), offsets


def name_first(values: Sequence) -> str:
    """The first few of `values`, for a message."""
    return ", ".join(shorten(value) for value in list(values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
