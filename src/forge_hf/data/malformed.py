# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Malformed rows: left out, counted and named; too many of them stop the run."""

import warnings
from collections.abc import Iterable, Sequence

from ..checks import check_integer, check_number
from ..errors import MalformedRowsError


__all__ = ["MalformedRows"]


class MalformedRows:
    """
    Keeps count of the malformed rows of a file or stream.

    A reader says how many rows it has `seen`, well-formed or not, and `record`s those that it leaves out. `check`,
    after each batch, stops the run where they are too many; `report`, at the end, names the first few in one warning.
    It holds only numbers and texts, so that a worker process can have its own.

    Args:
        max_rate (`float`, *optional*, defaults to 0.01):
            Share of malformed rows above which the run stops. 0 refuses the first one, 1 accepts all.
        min_rows (`int`, *optional*, defaults to 1000):
            Number of rows before which `check` doesn't judge the rate, unless `max_rate` is 0.
        source (`str`, *optional*, defaults to `"the rows"`):
            What is read, for messages.
        num_shown (`int`, *optional*, defaults to 5):
            How many rows a message names.

    Example:

    ```python
    >>> from forge_hf.data import MalformedRows

    >>> malformed = MalformedRows(max_rate=0.5, source="train.csv")
    >>> malformed.seen(4)
    >>> malformed.record([3], "no answer")
    >>> malformed.check()
    >>> malformed.summary()
    '1 of 4 rows (25 %) of train.csv are malformed: line 3: no answer'
    ```
    """

    def __init__(self, max_rate: float = 0.01, min_rows: int = 1000, source: str = "the rows", num_shown: int = 5):
        check_number("max_rate", max_rate, 0, 1)
        check_integer("min_rows", min_rows, 0)
        check_integer("num_shown", num_shown)
        self.max_rate = max_rate
        self.min_rows = min_rows
        self.source = source
        self.num_shown = num_shown
        self.num_rows = 0
        self.num_malformed = 0
        self.first: list[tuple[int | None, str]] = []
        self._unit = "line"
        self._reported = False

    @property
    def rate(self) -> float:
        """Share of malformed rows so far."""
        return self.num_malformed / max(self.num_rows, self.num_malformed, 1)

    def seen(self, num_rows: int) -> None:
        """Adds to the number of rows read, malformed ones included."""
        self.num_rows += int(num_rows)

    def record(self, line_numbers: Iterable[int | None], reasons: str | Sequence[str], unit: str = "line") -> None:
        """
        Counts malformed rows.

        Args:
            line_numbers (`Iterable[int | None]`):
                Number of each row's line, from 1; `None` where it isn't known.
            reasons (`str` or `Sequence[str]`):
                What is wrong: one text for all, or one for each.
            unit (`str`, *optional*, defaults to `"line"`):
                What is numbered. `"row"` for rows of a dataset, of whose lines nothing is known.
        """
        self._unit = unit
        line_numbers = list(line_numbers)
        if not isinstance(reasons, str) and len(reasons) != len(line_numbers):
            raise ValueError(f"`reasons` must be one text or {len(line_numbers)}, got {len(reasons)}.")
        self.num_malformed += len(line_numbers)
        for place, number in enumerate(line_numbers[: self.num_shown - len(self.first)]):
            reason = reasons if isinstance(reasons, str) else reasons[place]
            self.first.append((None if number is None else int(number), reason))

    def check(self) -> None:
        """
        Stops the run where too many rows are malformed.

        Raises:
            [`MalformedRowsError`]: if the rate is above `max_rate` and `min_rows` rows were read.
        """
        if self.num_rows >= self.min_rows or self.max_rate == 0:
            self._refuse_too_many()

    def report(self) -> None:
        """
        To be called at the end: warns once if any row was malformed, whatever number was read.

        Raises:
            [`MalformedRowsError`]: if the rate is above `max_rate`.
        """
        self._refuse_too_many()
        if self.num_malformed and not self._reported:
            self._reported = True
            warnings.warn(f"{self.summary()}. They were left out.", stacklevel=3)

    def summary(self) -> str:
        """How many rows are malformed, and the first of them."""
        lines = [reason if number is None else f"{self._unit} {number}: {reason}" for number, reason in self.first]
        more = "; ..." if self.num_malformed > len(self.first) else ""
        total = max(self.num_rows, self.num_malformed)
        return (
            f"{self.num_malformed:,} of {total:,} rows ({100 * self.rate:.3g} %) of {self.source} are malformed: "
            f"{'; '.join(lines)}{more}"
        )

    def _refuse_too_many(self) -> None:
        if self.num_malformed and self.rate > self.max_rate:
            raise MalformedRowsError(
                f"{self.summary()}. That is more than `max_rate={self.max_rate:g}`: mend the rows, or allow more."
            )
