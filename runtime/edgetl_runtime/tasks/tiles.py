"""Large photos in squares that overlap, for objects that would be too small in the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.errors import UsageError
from edgetl_runtime.preprocess import ColorOrder, load_bands, stack_bands
from edgetl_runtime.sources import ImageSource
from edgetl_runtime.tasks.boxes import NOTHING, Found, suppressed

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["check_tile", "found_in_tiles", "squares"]

_LEAST = 32
_OVERLAP = 0.2
"""Of a square with its neighbour: an object smaller than this is whole in one of them."""


def check_tile(tile: int) -> None:
    """Raises `UsageError` for what is no size of a square."""
    if not is_count(tile) or tile < _LEAST:
        raise UsageError(f"tile must be at least {_LEAST} pixels, not {tile!r:.60}", fix="tile=640")


def found_in_tiles(
    find: Callable[[npt.NDArray[np.uint8]], Found],
    image: ImageSource,
    tile: int,
    *,
    channels: int,
    color: ColorOrder,
    iou: float,
    most: int,
) -> tuple[Found, tuple[int, int]]:
    """What `find` finds in the squares of a photo, in pixels of the photo, and the photo's (width, height).

    `find` gets (tile, tile, channels) uint8, smaller only for a small photo. Of boxes that overlap, also those of two
    squares, the best are left, as in one image.
    """
    bands = load_bands(image, channels, color=color)
    size = bands[0].size
    parts = [NOTHING]
    for corners in squares(size, tile):
        found = find(stack_bands([band.crop(corners) for band in bands]))
        parts.append(found._replace(boxes=found.boxes + np.array(corners[:2] * 2, np.float32)))
    joined = Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    joined = joined.at(np.argsort(-joined.scores, kind="stable"))
    return suppressed(joined, iou, most), size


def squares(size: tuple[int, int], tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the squares that cover a photo of (width, height); the last ones end at its edges."""
    starts = []
    for side in size:
        n = 1 if side <= tile else 1 + -(-(side - tile) // max(1, round(tile * (1 - _OVERLAP))))
        starts.append([round(place) for place in np.linspace(0, max(0, side - tile), n)])
    for top in starts[1]:
        for left in starts[0]:
            yield left, top, min(left + tile, size[0]), min(top + tile, size[1])
