"""Whether what a caller asks for makes sense."""

from __future__ import annotations

import operator
from typing import TypeGuard

__all__ = ["is_count"]


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number of at least 1, numpy's included; ``True``, ``3.0`` and ``"3"`` are none."""
    if isinstance(value, bool):
        return False
    try:
        return operator.index(value) >= 1  # type: ignore[arg-type]
    except TypeError:
        return False
