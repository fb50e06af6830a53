"""Resizing that looks at single pixels: nearest, and bilinear without antialias, as TensorFlow does it by default.

With half-pixel centres: pixel i of n lies at (i + 0.5) * length / n - 0.5 of the photo. Held against `tf.image.resize`
within one grey level, which is rounding: what is kept here is uint8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgetl_runtime.placing import place

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgetl_runtime.manifest import Preprocess
    from edgetl_runtime.reduced import View

__all__ = ["sampled"]


def sampled(image: Image.Image, spec: Preprocess, view: View | None = None) -> Image.Image:
    """An upright image brought to ``spec.crop``; with `view` it is a reduced one of a photo. Borders are black."""
    whole = image.size if view is None else view.size
    box = (0.0, 0.0, float(image.width), float(image.height)) if view is None else view.box
    placed = place(whole, spec)
    columns, across = _positions(placed.left, placed.resized[0], placed.tensor[0], (box[0], box[2]))
    rows, down = _positions(placed.top, placed.resized[1], placed.tensor[1], (box[1], box[3]))
    pixels = np.asarray(image)
    if spec.interpolation == "nearest":
        inside = pixels[_nearest(down, image.height)[:, None], _nearest(across, image.width)]
    else:
        inside = _between(pixels, down, across)
    tensor = np.zeros((placed.tensor[1], placed.tensor[0], *pixels.shape[2:]), np.uint8)
    tensor[rows, columns] = inside
    return Image.fromarray(tensor)


def _positions(
    start: int, resized: int, length: int, box: tuple[float, float]
) -> tuple[slice, npt.NDArray[np.float32]]:
    """Which places of the tensor the photo covers, and where their centres lie in the image, from its first edge."""
    first, last = max(start, 0), min(start + resized, length)
    centres = np.arange(first - start, last - start, dtype=np.float32) + np.float32(0.5)
    scale = np.float32((box[1] - box[0]) / resized)
    return slice(first, last), np.asarray(centres * scale + np.float32(box[0]), np.float32)


def _nearest(positions: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.intp]:
    index: npt.NDArray[np.intp] = np.minimum(np.floor(positions).astype(np.intp), length - 1)
    return index


def _between(
    pixels: npt.NDArray[np.uint8], down: npt.NDArray[np.float32], across: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """The mean of the four pixels around each position, weighted by how near they are."""
    top, bottom, rows = _neighbours(down, pixels.shape[0])
    left, right, columns = _neighbours(across, pixels.shape[1])
    deep = pixels.ndim - 2
    rows, columns = rows.reshape(-1, 1, *(1,) * deep), columns.reshape(-1, *(1,) * deep)
    upper, lower = pixels[top], pixels[bottom]
    above = upper[:, left] + (upper[:, right].astype(np.float32) - upper[:, left]) * columns
    below = lower[:, left] + (lower[:, right].astype(np.float32) - lower[:, left]) * columns
    mixed: npt.NDArray[np.uint8] = (above + (below - above) * rows + np.float32(0.5)).astype(np.uint8)
    return mixed


def _neighbours(
    positions: npt.NDArray[np.float32], length: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The pixels before and behind each position, and how far it is on the way between them."""
    centred = positions - np.float32(0.5)
    before = np.floor(centred)
    share = centred - before
    first = np.clip(before.astype(np.intp), 0, length - 1)
    behind = np.clip(before.astype(np.intp) + 1, 0, length - 1)
    return first, behind, share
