# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Codes in texts, found for whole batches at once: where they stand, which they are, and what stands between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..semantic_ids import SemanticIdLayout


__all__ = ["CodesInTexts", "as_texts", "concatenate_rows", "find_codes", "take_rows", "unique_slices"]

_C, _ZERO, _NINE = b"C09"
_MAX_DIGITS = 9  # a layout has at most 2^24 codes, so that a code of more digits is none


@dataclass
class CodesInTexts:
    """
    Codes of a batch of texts, in the order of reading.

    Args:
        data (`np.ndarray` of shape `(num_bytes,)`): UTF-8 bytes of the texts, one after the other.
        offsets (`np.ndarray` of shape `(num_texts + 1,)`): where each text begins in `data`.
        bounds (`np.ndarray` of shape `(num_texts + 1,)`): number of each text's first code.
        starts, stops (`np.ndarray` of shape `(num_codes,)`): where each code stands in `data`.
        index (`np.ndarray` of shape `(num_codes,)`): the number written after the `C`; -1 where it isn't a code's, as
            in `C007`.
    """

    data: np.ndarray
    offsets: np.ndarray
    bounds: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    index: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of codes of each text."""
        return np.diff(self.bounds)

    @property
    def rows(self) -> np.ndarray:
        """Number of the text of each code."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def places(self) -> np.ndarray:
        """Place of each code in its text, from 0."""
        return np.arange(len(self.index)) - np.repeat(self.bounds[:-1], self.counts)

    def problems(self, layout: SemanticIdLayout, name: str, only_codes: bool = False) -> dict[int, str]:
        """What is wrong with a text that isn't made of whole semantic IDs of `layout`, by the number of the text."""
        found: dict[int, str] = {}
        levels, counts, lengths = layout.num_levels, self.counts, np.diff(self.offsets)
        for row in np.flatnonzero(lengths == 0).tolist():
            found[row] = f"no `{name}`"
        for row in np.flatnonzero(counts == 0).tolist():
            found.setdefault(row, f"`{name}` has no codes")
        level = self.places % levels
        first = np.array(layout.offsets)[level]
        outside = (self.index < first) | (self.index >= first + np.array(layout.codebook_sizes)[level])
        for code in np.flatnonzero(outside).tolist():
            row = int(np.searchsorted(self.bounds, code, side="right")) - 1
            text = self.data[self.starts[code] : self.stops[code]].tobytes().decode()
            found.setdefault(row, f"`{name}` has {text} where a code of level {level[code] + 1} should stand")
        for row in np.flatnonzero(counts % levels).tolist():
            found.setdefault(row, f"`{name}` has {counts[row]} codes, and a semantic ID has {levels}")
        if only_codes:
            in_codes = np.bincount(self.rows, weights=self.stops - self.starts, minlength=len(counts))
            for row in np.flatnonzero(in_codes < lengths).tolist():
                found.setdefault(row, f"`{name}` has more than codes")
        return found


def as_texts(values: Sequence | pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """A column of texts. What is no text, such as `None` or a number, becomes null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        values = list(values)
        try:
            return pa.array(values, type=pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array([value if isinstance(value, str) else None for value in values], type=pa.large_string())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return values.cast(pa.large_string())
    return pa.nulls(len(values), pa.large_string())


def find_codes(texts: pa.LargeStringArray) -> CodesInTexts:
    """Every `C` that digits follow, in all texts."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    is_digit = np.zeros(len(data) + _MAX_DIGITS + 1, dtype=bool)  # as if text without digits followed
    is_digit[: len(data)] = (data >= _ZERO) & (data <= _NINE)
    starts = np.flatnonzero((data == _C) & is_digit[1 : len(data) + 1])
    ends = offsets[1:][np.searchsorted(offsets[1:], starts, side="right")]  # of each code's text
    starts, ends = starts[starts + 1 < ends], ends[starts + 1 < ends]
    index, stops = np.zeros(len(starts), dtype=np.int64), starts + 1
    going = np.ones(len(starts), dtype=bool)
    for _ in range(_MAX_DIGITS):
        going = going & is_digit[stops] & (stops < ends)
        if not going.any():
            break
        index = np.where(going, index * 10 + data[np.minimum(stops, len(data) - 1)] - _ZERO, index)
        stops = stops + going
    too_long = (stops < ends) & is_digit[stops]
    zero_first = (stops > starts + 2) & (data[np.minimum(starts + 1, max(len(data) - 1, 0))] == _ZERO)
    index[too_long | zero_first] = -1
    return CodesInTexts(data, offsets, np.searchsorted(starts, offsets), starts, stops, index)


def unique_slices(data: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The texts `data[start:stop]`, each once, and for every pair of `starts` and `stops` (ascending) its number."""
    if len(starts) == 0:
        return [], np.zeros(0, dtype=np.int64)
    edges = np.stack([starts, stops], axis=1).reshape(-1).astype(np.int64)
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(np.ascontiguousarray(data))]
    pieces = pa.Array.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
    encoded = pieces.take(pa.array(np.arange(0, len(edges), 2))).dictionary_encode()
    return [text.decode() for text in encoded.dictionary.to_pylist()], encoded.indices.to_numpy().astype(np.int64)


def take_rows(table: Sequence[np.ndarray], index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table of arrays, one after the other, and the length of each."""
    if len(table) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(len(index), dtype=np.int64)
    lengths = np.array([len(row) for row in table])
    starts, taken = np.cumsum(lengths) - lengths, lengths[index]
    return np.concatenate(table)[_ranges(starts[index], taken)], taken


def concatenate_rows(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Joins tables row by row. Each is the values of all its rows, and the length of each row."""
    lengths = np.sum([lengths for _, lengths in parts], axis=0)
    joined, place = np.empty(lengths.sum(), dtype=np.int64), np.cumsum(lengths) - lengths
    for values, part in parts:
        joined[_ranges(place, part)] = values
        place = place + part
    return joined, lengths


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, ...` for `lengths[0]` numbers, then the same for the next."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
