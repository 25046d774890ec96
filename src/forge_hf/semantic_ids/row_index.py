# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows by the hash of what they hold: a hash table in two arrays, which can be saved and mapped into memory."""

import numpy as np
import torch


__all__ = ["RowIndex", "hash_codes", "hash_numbers", "hash_texts"]

# The hashes are part of the format of saved catalogs: other constants would make those unreadable.
_STEP, _FIRST, _SECOND = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_CHUNK = 2**17  # texts that are hashed at once


class RowIndex:
    """
    Finds rows by a 64-bit hash. The leading bits of a hash name its bucket, and rows of a bucket are neighbours, in
    ascending order. There are one to two rows a bucket, 8 bytes or less a row in all.

    Args:
        starts (`np.ndarray` of shape `(num_buckets + 1,)`):
            Where each bucket begins in `rows`, and at the end the number of rows.
        rows (`np.ndarray` of shape `(num_rows,)`):
            All rows, bucket after bucket.
    """

    def __init__(self, starts: np.ndarray, rows: np.ndarray):
        self.starts = starts
        self.rows = rows
        self._shift = np.uint64(64 - (len(starts) - 1).bit_length() + 1)

    @classmethod
    def build(cls, hashes: np.ndarray) -> "RowIndex":
        """The index of rows with these hashes, a uint64 array of shape `(num_rows,)`."""
        num_buckets = cls.num_buckets(len(hashes))
        buckets = hashes >> np.uint64(64 - num_buckets.bit_length() + 1)
        dtype = np.int32 if len(hashes) < 2**31 else np.int64
        starts = np.zeros(num_buckets + 1, dtype=dtype)
        np.cumsum(np.bincount(buckets.astype(np.int64), minlength=num_buckets), out=starts[1:])
        return cls(starts, np.argsort(buckets, kind="stable").astype(dtype))

    @staticmethod
    def num_buckets(num_rows: int) -> int:
        """The largest power of 2 that isn't above the number of rows, and 2 at least."""
        return 2 ** max(1, num_rows.bit_length() - 1)

    def is_sound(self) -> bool:
        """Whether no look-up can leave the arrays: for those that come from a file."""
        starts, rows = self.starts, self.rows
        in_order = starts[0] == 0 and starts[-1] == len(rows) and bool((starts[1:] >= starts[:-1]).all())
        return in_order and rows.min() >= 0 and rows.max() < len(rows)

    def candidates(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Rows that may have these hashes.

        Args:
            hashes (`np.ndarray` of dtype uint64 and shape `(n,)`): What is looked up.

        Returns:
            `tuple`: for each candidate the place in `hashes`, in ascending order, and its row, in ascending order
            within a place. Whether it is the one that was looked up is to be seen.
        """
        buckets = (hashes >> self._shift).astype(np.int64)
        first = self.starts[buckets].astype(np.int64)
        counts = self.starts[buckets + 1] - first
        places = np.repeat(np.arange(len(hashes)), counts)
        shift = first - (np.cumsum(counts) - counts)
        return places, self.rows[np.arange(len(places)) + shift[places]].astype(np.int64)


def hash_numbers(numbers: np.ndarray) -> np.ndarray:
    """Hashes of int64 numbers, as uint64."""
    return _mix(np.ascontiguousarray(numbers, dtype=np.int64).view(np.uint64) + _STEP)


def hash_codes(codes: torch.Tensor) -> np.ndarray:
    """Hashes of codes of shape `(n, num_levels)`, as uint64."""
    hashes = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.numpy().T:
        hashes = _mix(hashes + column.astype(np.uint64) + _STEP)
    return hashes


def hash_texts(text: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """
    Hashes of strings of bytes, as uint64: a polynomial in each string's bytes, modulo 2^64, so that its value is the
    difference of two sums over the bytes of all strings.

    Args:
        text (`np.ndarray` of dtype uint8): The bytes of all strings.
        offsets (`np.ndarray` of shape `(n + 1,)`): Where each string begins, and the end of the last.
    """
    hashes = np.empty(len(offsets) - 1, dtype=np.uint64)
    for row in range(0, len(hashes), _CHUNK):
        ends = offsets[row : row + _CHUNK + 1]
        lengths = np.diff(ends)
        powers = np.cumprod(np.full(lengths.max(initial=0), _STEP), dtype=np.uint64)
        position = np.arange(lengths.sum()) - np.repeat(ends[:-1] - ends[0], lengths)
        # One is added to each byte, so that zeros at the end count.
        weighted = (text[ends[0] : ends[-1]].astype(np.uint64) + np.uint64(1)) * powers[position]
        sums = np.zeros(len(weighted) + 1, dtype=np.uint64)
        np.cumsum(weighted, out=sums[1:])
        ends = ends - ends[0]
        hashes[row : row + _CHUNK] = _mix(sums[ends[1:]] - sums[ends[:-1]])
    return hashes


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every bit of a value changes about half the bits of the result."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
