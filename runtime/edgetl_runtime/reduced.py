"""JPEG files decoded at a fraction of their size: libjpeg leaves out what resizing would throw away.

libjpeg decodes at 1/2, 1/4 or 1/8 by inverse transforms of fewer points, which is most of the time of a large photo.
The shorter side keeps at least `MARGIN` times the pixels that it is resized to, so that resizing still averages over
two pixels and more (Pillow's own thumbnails keep as much: ``reducing_gap=2.0``).
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from edgetl_runtime.manifest import Preprocess

__all__ = ["MARGIN", "View", "least_side", "reduce_jpeg", "upright_view"]

MARGIN = 2
"""How many times the pixels that resizing needs are decoded, at least."""

_FORMATS = ("JPEG", "MPO")
_Op = Image.Transpose
_SWAPPED = (_Op.TRANSPOSE, _Op.TRANSVERSE, _Op.ROTATE_90, _Op.ROTATE_270)
_FROM_THE_RIGHT = (_Op.FLIP_LEFT_RIGHT, _Op.ROTATE_180, _Op.TRANSVERSE, _Op.ROTATE_270)
"""Ways to turn an image after which what was its end, in the direction that is now across, is on the left."""
_FROM_THE_BOTTOM = (_Op.FLIP_TOP_BOTTOM, _Op.ROTATE_180, _Op.TRANSVERSE, _Op.ROTATE_90)


class View(NamedTuple):
    """Where a whole photo of ``size`` (width, height) lies in its reduced image: ``box`` in that one's pixels.

    The last row and column may stand for less than a whole pixel, so the box may end inside of them.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]


def least_side(spec: Preprocess) -> int | None:
    """Pixels that the shorter side of a photo must keep when it is decoded; None where it is decoded at full size."""
    return MARGIN * max(spec.covered) if spec.decode == "scaled" else None


def reduce_jpeg(image: Image.Image, side: int) -> View | None:
    """Let a JPEG that was opened and not yet decoded be decoded at the smallest scale that leaves `side` pixels.

    None where it stays as it is: another format, or a photo that is too small to be reduced.
    """
    size = image.size
    if image.format not in _FORMATS or min(size) < 2 * side:
        return None
    drafted = image.draft(None, (side, side))  # no mode: colours are converted as ever
    if drafted is None or image.size == size:
        return None
    return View(size, drafted[1])


def upright_view(view: View, method: Image.Transpose | None, reduced: tuple[int, int]) -> View:
    """`view` of an image of the size `reduced` after it was turned by `method`."""
    if method is None:
        return view
    (width, height), (columns, rows) = view.size, reduced
    across, down = view.box[2:]
    if method in _SWAPPED:
        width, height, columns, rows, across, down = height, width, rows, columns, down, across
    left = columns - across if method in _FROM_THE_RIGHT else 0.0
    top = rows - down if method in _FROM_THE_BOTTOM else 0.0
    return View((width, height), (left, top, left + across, top + down))
