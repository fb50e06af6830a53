"""Masks as COCO's run lengths: column by column, first how many pixels are outside, then inside, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decoded_runs"]


def decoded_runs(rle: Mapping[str, Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(height, width): where the object is. `size` is (width, height) of its photo.

    ``counts`` are numbers, or a text that pycocotools wrote: five bits a character from the lowest on, the sixth says
    that more follow, and from the third number on the difference to the last but one.
    Raises `ValueError` for what is none, or of another size.
    """
    width, height = size
    if list(rle.get("size", ())) != [height, width]:
        raise ValueError(f"run lengths of size {rle.get('size')!r:.60}, the photo has {[height, width]}")
    counts = rle.get("counts")
    lengths = _numbers(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise ValueError("counts are no run lengths")
    if sum(lengths) != width * height:
        raise ValueError(f"run lengths of {sum(lengths)} pixels, the photo has {width * height}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place >= len(text) or not 48 <= ord(text[place]) < 112:
                raise ValueError("counts are no run lengths")
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            place, shift = place + 1, shift + 5
            if not more and bits & 16:
                value -= 1 << shift  # a negative difference
        found.append(value + (found[-2] if len(found) > 2 else 0))
    return found
