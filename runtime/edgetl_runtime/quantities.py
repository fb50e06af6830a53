"""Numbers that people set as limits: which of them make sense, and how they are written beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from edgetl_runtime.errors import UsageError
from edgetl_runtime.frozen import dataclass

__all__ = ["DROP", "SHARE", "Range", "number_in_words", "percent_in_words", "told_apart"]

_MOST_DIGITS = 17  # a float has no more


@dataclass(frozen=True)
class Range:
    """The numbers that make sense as a limit: from ``least`` to ``most``, without those of the two in ``but``.

    ``unit`` is what they count, in words, and ``example`` is one of them. ``slips`` are factors that turn a number in
    a wrong unit, such as percent, into the right one.
    """

    least: float
    most: float
    unit: str
    example: float
    slips: tuple[float, ...] = ()
    but: tuple[float, ...] = ()

    def check(self, name: str, value: Any) -> float:
        """`value` as a float. Raises `UsageError` when it is no number, or one that makes no sense as `name`."""
        number = _number(value)
        if number is None:
            is_huge = isinstance(value, int) and not isinstance(value, bool)
            text = "one that is too large" if is_huge else f"{value!r:.60}"
            raise UsageError(f"{name} must be a number, found {text}", fix=f"{self.unit}: {name} = {self._example}")
        if not self._holds(number):
            raise UsageError(f"{name} = {number:.12g} makes no sense", fix=self._hint(number))
        return number

    def _holds(self, number: float) -> bool:
        return self.least <= number <= self.most and number not in self.but

    def _hint(self, number: float) -> str:
        """What to write instead: the same in the right unit where that makes sense."""
        for slip in self.slips:
            if number and self._holds(number * slip):
                return f"{self.unit}: write {number_in_words(number * slip)}"
        first = "above" if self.least in self.but else "from"
        last = ", below" if self.most in self.but else " to"
        return f"{self.unit}, {first} {self.least:.12g}{last} {self.most:.12g}, for example {self._example}"

    @property
    def _example(self) -> str:
        return number_in_words(self.example)


SHARE = Range(0.0, 1.0, "a share of 1", 0.97, (0.01,))
"""Of images, for example."""

DROP = Range(0.0, 0.5, "a share of 1", 0.01, (0.01,), but=(0.5,))
"""The share of images that may be lost: half of them or more is no limit, but percent."""


def number_in_words(value: float, more: int = 0) -> str:
    """Four digits, or all of them in front of the point; and so many `more`."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) >= 10:
        return f"{value:.0f}"
    digits = 4 + more
    if abs(value) < 1000:
        return f"{value:.{digits}g}"
    return f"{value:.{max(0, digits - len(f'{abs(value):.0f}'))}f}"


def percent_in_words(value: float, more: int = 0) -> str:
    """A share as percent, one digit behind the point and so many `more`."""
    return f"{value:.{1 + more}%}"


def told_apart(value: float, limit: float, words: Callable[[float, int], str] = number_in_words) -> tuple[str, str]:
    """Both as text, with as many more digits as it takes to see that they are not equal, when they are not."""
    for more in range(_MOST_DIGITS):
        texts = words(value, more), words(limit, more)
        if texts[0] != texts[1] or value == limit:
            break
    return texts


def _number(value: Any) -> float | None:
    """`value` as a finite float, ``None`` when it is none; True and False are no numbers."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
