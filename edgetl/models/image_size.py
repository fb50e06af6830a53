"""The size of a network's input as people write it: one number for a square, HEIGHTxWIDTH for a rectangle."""

from __future__ import annotations

import re
from typing import TypeAlias

from edgetl_runtime.errors import UsageError

__all__ = ["ImageSize", "height_and_width", "image_size_of", "size_text"]

ImageSize: TypeAlias = int | tuple[int, int]
"""Pixels: the side of a square, or (height, width)."""

_SIDES = re.compile(r"([0-9]{1,9})(?:\s*[xX\u00d7]\s*([0-9]{1,9}))?")


def image_size_of(value: object, *, where: str = "image_size") -> ImageSize:
    """A size as a recipe, the command line or Python has it: ``224``, ``"192x320"``, ``[192, 320]``, height first.

    A rectangle with equal sides is its side. `where` names the value in errors.
    Raises `UsageError` for anything else; whether the sides make sense is not looked at.
    """
    sides: tuple[object, ...] = (value,)
    if isinstance(value, str) and (found := _SIDES.fullmatch(value.strip())):
        sides = tuple(int(side) for side in found.groups() if side is not None)
    elif isinstance(value, list | tuple):
        sides = tuple(value)
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(whole) != len(sides) or len(whole) not in (1, 2):
        raise UsageError(f"{where} must be one whole number or HEIGHTxWIDTH, not {value!r:.60}", fix=_fix(value))
    return whole[0] if whole[0] == whole[-1] else (whole[0], whole[1])


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both sides in pixels, the height first."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: ImageSize) -> str:
    """As people write it, and `image_size_of` reads it: ``224``, ``192x320``."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def _fix(value: object) -> str:
    numbers = re.findall(r"(?<![\d.])[0-9]{1,9}(?![\d.])", value) if isinstance(value, str) else []
    if len(numbers) == 2:
        return f'"{numbers[0]}x{numbers[1]}" for {numbers[0]} rows of {numbers[1]} pixels'
    return '224 for a square, "192x320" for 192 rows of 320 pixels'
