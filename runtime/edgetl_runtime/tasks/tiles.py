"""Large photos in squares that overlap, for objects that would be too small in the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.errors import UsageError
from edgetl_runtime.preprocess import ColorOrder, load_bands, stack_bands
from edgetl_runtime.sources import ImageSource, separate
from edgetl_runtime.tasks.boxes import Found, suppressed

if TYPE_CHECKING:
    from edgetl_runtime.tasks.detection import Detector
    from edgetl_runtime.tasks.detections import Detections

__all__ = ["squares", "tiles_of"]

_OVERLAP = 0.2
"""Of a square with its neighbour: an object smaller than this is whole in one of them."""


def tiles_of(
    detector: Detector, image: ImageSource | Iterable[ImageSource], tile: int, color: ColorOrder, asked: dict[str, Any]
) -> Detections | list[Detections]:
    """`Detector.predict` for photos cut into squares of `tile` pixels. Raises `UsageError` for less than 32."""
    if not is_count(tile) or tile < 32:
        raise UsageError(f"tile must be at least 32 pixels, not {tile!r:.60}", fix="tile=640")
    images, one = separate(image)
    found = [_in_tiles(detector, item, tile, color, asked) for item in images]
    return found[0] if one else found


def squares(size: tuple[int, int], tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the squares that cover a photo of (width, height); the last ones end at its edges."""
    starts = []
    for side in size:
        n = 1 if side <= tile else 1 + -(-(side - tile) // max(1, round(tile * (1 - _OVERLAP))))
        starts.append([round(place) for place in np.linspace(0, max(0, side - tile), n)])
    for top in starts[1]:
        for left in starts[0]:
            yield left, top, min(left + tile, size[0]), min(top + tile, size[1])


def _in_tiles(
    detector: Detector, image: ImageSource, tile: int, color: ColorOrder, asked: dict[str, Any]
) -> Detections:
    bands = load_bands(image, detector.manifest.preprocess.channels, color=color)
    size = bands[0].size
    parts = [Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))]
    for corners in squares(size, tile):
        pixels = stack_bands([band.crop(corners) for band in bands])
        found = detector._predict(pixels, color="RGB", **asked)  # the bands are in the model's order already
        offset = np.array(corners[:2] * 2, np.float32)
        parts.append(Found(found.boxes + offset, found.scores, found.labels))
    joined = Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    joined = joined.at(np.argsort(-joined.scores, kind="stable"))
    return detector._result(suppressed(joined, asked["iou"], asked["most"]), size)
