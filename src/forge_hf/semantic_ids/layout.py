# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How the codes of a semantic ID are numbered and written. The only place that knows it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from numbers import Integral
from typing import Any

import numpy as np
import torch

from ..checks import shorten
from ..errors import InvalidCodesError, InvalidSemanticIdError


__all__ = ["SemanticIdLayout", "as_codes", "row_keys", "row_numbers"]

MAX_NUM_CODES = 2**24
MAX_NUM_TOKENS = 2**20
_SHOWN = 5  # how many offenders an error message names


@dataclass(frozen=True)
class SemanticIdLayout:
    """
    The shape of a semantic ID: how many levels it has, and how many codes each level.

    Codes are counted from 0 in every level. In text, and in a vocabulary, they are counted through all levels, so that
    a code of one level can't be taken for a code of another: FORGE's form (https://huggingface.co/papers/2509.20904)
    writes the codes `[12, 8, 16]` of three codebooks of 8192 as `"C12C8200C16400"`.

    Args:
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level, from the first to the last.

    Raises:
        `ValueError`: `codebook_sizes` is empty, holds something that isn't a positive integer, or more than 2^24 codes
            in all.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdLayout

    >>> layout = SemanticIdLayout(codebook_sizes=[8192, 8192, 8192])
    >>> layout.to_text([12, 8, 16])
    'C12C8200C16400'
    >>> layout.from_text("C12C8200C16400")
    tensor([12,  8, 16])
    ```
    """

    codebook_sizes: tuple[int, ...]

    def __post_init__(self):
        sizes = self.codebook_sizes
        if isinstance(sizes, np.ndarray | torch.Tensor):
            sizes = sizes.tolist()
        if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) == 0:
            raise ValueError(f"`codebook_sizes` must list the number of codes of each level, got {shorten(sizes)}.")
        if not all(isinstance(size, Integral) and not isinstance(size, bool) and size > 0 for size in sizes):
            raise ValueError(f"`codebook_sizes` must hold positive integers only, got {list(sizes)!r}.")
        if sum(sizes) > MAX_NUM_CODES:
            raise ValueError(
                f"`codebook_sizes` hold {sum(sizes):,} codes in all, and at most {MAX_NUM_CODES:,} are supported. Use "
                "more levels of fewer codes."
            )
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in sizes))

    @property
    def num_levels(self) -> int:
        """Number of codes in a semantic ID."""
        return len(self.codebook_sizes)

    @property
    def num_codes(self) -> int:
        """Number of codes of all levels together."""
        return sum(self.codebook_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of the first code of each level."""
        return tuple(accumulate(self.codebook_sizes[:-1], initial=0))

    @cached_property
    def _pattern(self) -> re.Pattern:
        # ASCII digits only, no leading zeros: every semantic ID has exactly one spelling.
        return re.compile("C(0|[1-9][0-9]{0,9})" * self.num_levels)

    def validate(self, codes: torch.Tensor | np.ndarray | Sequence) -> torch.Tensor:
        """
        Checks that `codes` are codes of this layout.

        Args:
            codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(..., num_levels)`):
                Codes, counted from 0 in each level.

        Returns:
            `torch.Tensor` of dtype int64 and the same shape, on the device of `codes`.

        Raises:
            [`InvalidCodesError`]: Not integers, not `num_levels` wide, or outside a codebook (with rows and values).
        """
        codes = _as_int64(codes, "codes")
        if codes.ndim == 0 or codes.shape[-1] != self.num_levels:
            raise InvalidCodesError(
                f"`codes` must have {self.num_levels} levels in the last dimension (codebook sizes "
                f"{list(self.codebook_sizes)}), got shape {tuple(codes.shape)}."
            )
        outside = (codes < 0) | (codes >= codes.new_tensor(self.codebook_sizes))
        if outside.any():
            where = outside.reshape(-1, self.num_levels).nonzero()
            values = codes.reshape(-1, self.num_levels)
            named = ", ".join(
                f"row {row} level {level + 1}: {values[row, level].item()} (codebook of {self.codebook_sizes[level]})"
                for row, level in where[:_SHOWN].tolist()
            )
            raise InvalidCodesError(
                f"`codes` holds {len(where)} values outside their codebook: {named}"
                f"{', ...' if len(where) > _SHOWN else ''}. Codes count from 0 in every level; take off the offsets "
                "with `from_index` if they count through all levels."
            )
        return codes

    def holds(self, codes: torch.Tensor) -> bool:
        """Whether a tensor of integers of shape `(n, num_levels)` holds codes of this layout; no copy is made."""
        bounds = [column.aminmax() for column in codes.unbind(-1)] if len(codes) else []
        return all(low >= 0 and high < size for (low, high), size in zip(bounds, self.codebook_sizes, strict=False))

    def to_index(self, codes: torch.Tensor | np.ndarray | Sequence) -> torch.Tensor:
        """
        Numbers codes through all levels, from 0 to `num_codes - 1`.

        Args:
            codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(..., num_levels)`):
                Codes, counted from 0 in each level.

        Returns:
            `torch.Tensor` of dtype int64 and the same shape.
        """
        codes = self.validate(codes)
        return codes + codes.new_tensor(self.offsets)

    def from_index(self, index: torch.Tensor | np.ndarray | Sequence) -> torch.Tensor:
        """
        The inverse of [`~SemanticIdLayout.to_index`].

        Args:
            index (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(..., num_levels)`):
                Codes, counted through all levels.

        Returns:
            `torch.Tensor` of dtype int64 and the same shape: codes, counted from 0 in each level.

        Raises:
            [`InvalidCodesError`]: An index belongs to another level.
        """
        index = _as_int64(index, "index")
        if index.ndim == 0 or index.shape[-1] != self.num_levels:
            return self.validate(index)  # raises, naming the shape
        return self.validate(index - index.new_tensor(self.offsets))

    def tokens(self) -> list[str]:
        """
        Text of every code, `"C0"` to `f"C{num_codes - 1}"`, in the order of their index.

        Raises:
            `ValueError`: There are more codes than a vocabulary could have (2^20).
        """
        if self.num_codes > MAX_NUM_TOKENS:
            raise ValueError(
                f"`codebook_sizes` hold {self.num_codes:,} codes in all. Each is to be a token, and at most "
                f"{MAX_NUM_TOKENS:,} are supported. Use more levels of fewer codes."
            )
        return [f"C{index}" for index in range(self.num_codes)]

    def to_text(self, codes: torch.Tensor | np.ndarray | Sequence) -> str | list[str]:
        """
        Writes semantic IDs.

        Args:
            codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(num_levels,)` or `(n, num_levels)`):
                Codes, counted from 0 in each level.

        Returns:
            `str` for one semantic ID, `list[str]` for several.

        Raises:
            [`InvalidCodesError`]: `codes` aren't codes of this layout.
        """
        index = self.to_index(codes)
        if index.ndim > 2:
            raise InvalidCodesError(
                f"`codes` must be of shape ({self.num_levels},) or (n, {self.num_levels}), got {tuple(index.shape)}."
            )
        form = "C%d" * self.num_levels
        texts = [form % tuple(row) for row in index.reshape(-1, self.num_levels).tolist()]
        return texts[0] if index.ndim == 1 else texts

    def from_text(self, text: str | Sequence[str]) -> torch.Tensor:
        """
        Reads semantic IDs. Refuses whatever [`~SemanticIdLayout.to_text`] wouldn't have written.

        Args:
            text (`str` or `Sequence[str]`):
                One semantic ID or several.

        Returns:
            `torch.Tensor` of dtype int64 and shape `(num_levels,)` for a `str`, `(n, num_levels)` for a sequence.

        Raises:
            [`InvalidSemanticIdError`]: A text isn't exactly one semantic ID of this layout.
        """
        if isinstance(text, str):
            return self.from_text([text])[0]
        if not isinstance(text, Iterable):
            raise InvalidSemanticIdError(self._not_a_semantic_id(text))
        text, rows = list(text), []
        for entry in text:
            match = self._pattern.fullmatch(entry) if isinstance(entry, str) else None
            if match is None:
                raise InvalidSemanticIdError(self._not_a_semantic_id(entry))
            rows.append(match.groups())
        index = np.array(rows, dtype=np.int64).reshape(-1, self.num_levels)
        codes = torch.from_numpy(index - np.array(self.offsets))
        outside = ((codes < 0) | (codes >= torch.tensor(self.codebook_sizes))).any(dim=-1)
        if outside.any():
            raise InvalidSemanticIdError(self._not_a_semantic_id(text[int(outside.nonzero()[0])]))
        return codes

    def _not_a_semantic_id(self, text: Any) -> str:
        ranges = ", ".join(
            f"C{first} to C{first + size - 1}" for first, size in zip(self.offsets, self.codebook_sizes, strict=True)
        )
        return (
            f"{shorten(text)} is not a semantic ID of this layout, which has {self.num_levels} codes: {ranges}, in "
            "that order."
        )

    def to_dict(self) -> dict[str, list[int]]:
        """A dictionary that JSON can hold."""
        return {"codebook_sizes": list(self.codebook_sizes)}

    @classmethod
    def from_dict(cls, layout: Mapping[str, Any]) -> "SemanticIdLayout":
        """The inverse of [`~SemanticIdLayout.to_dict`]."""
        if not isinstance(layout, Mapping) or "codebook_sizes" not in layout:
            raise ValueError(f"`layout` must be a dictionary with `codebook_sizes`, got {shorten(layout)}.")
        return cls(codebook_sizes=layout["codebook_sizes"])


def as_codes(codes: torch.Tensor | np.ndarray | Sequence) -> torch.Tensor:
    """
    Codes of items whose layout isn't known, checked.

    Args:
        codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(num_items, num_levels)`):
            Codes of each item.

    Returns:
        `torch.Tensor` of dtype int64 and the same shape.

    Raises:
        [`InvalidCodesError`]: There are none, or they aren't such a table of integers from 0 on.
    """
    codes = _as_int64(codes, "codes")
    if codes.ndim != 2 or codes.numel() == 0:
        raise InvalidCodesError(
            "`codes` must be of shape (num_items, num_levels) with at least one item and level, got "
            f"{tuple(codes.shape)}."
        )
    if codes.min() < 0:
        raise InvalidCodesError(f"`codes` must count from 0 in every level, got {int(codes.min())}.")
    return codes


def row_keys(codes: torch.Tensor | np.ndarray) -> np.ndarray:
    """
    One sortable key for each row of `codes`: keys are equal where rows are, and sort as rows do, level by level.

    Args:
        codes (`torch.Tensor` or `np.ndarray` of shape `(n, num_levels)`):
            Codes, not negative.

    Returns:
        `np.ndarray` of shape `(n,)`: the row's bytes, most significant first, at any number of levels.
    """
    big_endian = np.ascontiguousarray(torch.as_tensor(codes).cpu().numpy(), dtype=">u4")
    # numpy drops trailing zero bytes of such a string, and fills them in again where it compares two.
    return big_endian.view(f"S{4 * big_endian.shape[1]}").reshape(-1)


def row_numbers(codes: torch.Tensor | np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """
    One integer for each row of `codes`: as [`row_keys`], and a row's number is `codebook_sizes[-1]` times one of its
    levels before the last, plus the code of the last.

    Args:
        codes (`torch.Tensor` or `np.ndarray` of shape `(n, num_levels)`):
            Codes within `codebook_sizes`.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.

    Returns:
        `np.ndarray` of dtype int64 and shape `(n,)`.
    """
    columns = torch.as_tensor(codes).cpu().numpy().T
    numbers, bound = np.zeros(len(codes), dtype=np.int64), 1
    for column, size in zip(columns, codebook_sizes, strict=True):
        if bound * size >= 2**63:  # numbers of the prefixes that occur are few enough
            numbers = np.unique(numbers, return_inverse=True)[1]
            bound = len(codes)
        numbers = numbers * size + column
        bound *= size
    return numbers


def _as_int64(values: torch.Tensor | np.ndarray | Sequence, name: str) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        try:
            array = np.asarray(values)
        except (ValueError, OverflowError) as error:
            raise InvalidCodesError(f"`{name}` must be a rectangular table of integers: {error}") from error
        if array.size == 0 and not isinstance(values, np.ndarray):
            array = array.astype(np.int64)  # an empty list has no type of its own
        if array.dtype.kind not in "iu":
            raise InvalidCodesError(f"`{name}` must be integers, got dtype {array.dtype}.")
        return torch.from_numpy(array.astype(np.int64))
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InvalidCodesError(f"`{name}` must be integers, got dtype {values.dtype}.")
    return values.to(torch.int64)
