"""A part of a resized image, without the rows and columns that nobody looks at: the same pixels in less time.

Pillow resizes every row by itself, then every column of what came out, and rounds in between. So rows that no kept
pixel needs can be left out of the first pass, and columns that are not kept out of the second, and not one grey level
changes. (Its own ``resize(box=...)`` leaves out more, but takes the box in float32: other weights, other pixels.)
"""

from __future__ import annotations

import functools
import sys

import PIL
from PIL import Image

__all__ = ["resize_part"]

_SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}
"""Half the width of a filter, in pixels of the smaller image."""
_LAST_KNOWN = (13, 0)
"""The version of Pillow up to which it is known which pass comes first."""


def resize_part(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], resample: Image.Resampling
) -> Image.Image:
    """``image.resize(size, resample).crop(part)``, for a part (left, top, right, bottom) inside of `size`."""
    width, height = size
    left, top, right, bottom = part
    if part == (0, 0, width, height) or not _rows_first(image.size, size):
        return image.resize(size, resample).crop(part)
    first, last = _rows_needed(image.height, height, top, bottom, _SUPPORT[resample])
    rows = image.crop((0, first, image.width, last)).resize((width, last - first), resample)
    # Back to where they were, between black rows that no kept pixel sees.
    columns = rows.crop((left, -first, right, image.height - first))
    return columns.resize((right - left, height), resample).crop((0, top, right - left, bottom))


def _rows_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether an image is made smaller both ways, and Pillow is known to resize its rows first.

    It always did up to 12; from 13.0 on columns come first where the height shrinks by more than twice as many pixels
    as the width (found by trying 4,000 sizes; tests/runtime/test_resizing.py tries some with the Pillow that is there).
    """
    fewer_columns, fewer_rows = old[0] - new[0], old[1] - new[1]
    return fewer_columns > 0 and 0 < fewer_rows <= 2 * fewer_columns and _pillow_version() <= _LAST_KNOWN


@functools.cache
def _pillow_version() -> tuple[int, ...]:
    """Major and minor; higher than any known one where it cannot be told."""
    major, _, rest = PIL.__version__.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (sys.maxsize,)


def _rows_needed(height: int, new_height: int, top: int, bottom: int, support: float) -> tuple[int, int]:
    """First row, and the one after the last, that the rows `top` to `bottom` of a resized image are made of.

    As in Pillow's Resample.c, and a row more on either side: that one has no weight.
    """
    scale = height / new_height
    reach = support * max(scale, 1.0)
    first = int((top + 0.5) * scale - reach + 0.5) - 1
    last = int((bottom - 0.5) * scale + reach + 0.5) + 1
    return max(first, 0), min(last, height)
