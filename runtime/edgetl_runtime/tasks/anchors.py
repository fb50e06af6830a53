"""Anchors of a detector: the boxes that its outputs are relative to, made from a few numbers in the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgetl_runtime.asked import is_count

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["anchor_hash", "make_anchors"]

_MOST, _LARGEST = 2**21, 1e3
"""Anchors, and sides of one in sides of the image."""


def make_anchors(
    grids: Sequence[Sequence[int]],
    shapes: Sequence[Sequence[Sequence[float]]],
    steps: Sequence[Sequence[float]] | None = None,
) -> npt.NDArray[np.float32]:
    """Anchors in the order of the outputs: level by level, row by row, place by place, shape by shape.

    Args:
        grids: (rows, columns) of each level's map.
        shapes: Of each level, the (width, height) of the anchors at one place, as shares of the image's sides.
        steps: Of each level, how far it is from a (row, column) to the next, as shares of the image's sides. By
            default the places divide the sides evenly; a map that is not as large as side / stride says needs it.

    Returns:
        (A, 4) float32: centre x, centre y, width, height, as shares of the image's sides.

    Raises:
        ValueError: They are no such numbers, or of more anchors than any detector has.
    """
    if not all(is_count(side) for grid in grids for side in grid) or not all(len(grid) == 2 for grid in grids):
        raise ValueError(f"grids are {grids!r:.80}, not rows and columns")
    if sum(rows * columns * len(level) for (rows, columns), level in zip(grids, shapes, strict=True)) > _MOST:
        raise ValueError("there are too many anchors")
    if not all(len(shape) == 2 and all(0 < side < _LARGEST for side in shape) for level in shapes for shape in level):
        raise ValueError("an anchor has no width or height")
    even = [(1 / rows, 1 / columns) for rows, columns in grids]
    if steps is not None and not all(len(step) == 2 and all(0 < share < _LARGEST for share in step) for step in steps):
        raise ValueError(f"steps are {steps!r:.80}, not shares of height and width")
    levels = []
    for (rows, columns), level, (down, right) in zip(grids, shapes, steps or even, strict=True):
        y, x = np.meshgrid((np.arange(rows) + 0.5) * down, (np.arange(columns) + 0.5) * right, indexing="ij")
        centres = np.repeat(np.stack((x, y), axis=-1).reshape(-1, 2), len(level), axis=0)
        sides = np.tile(np.asarray(level, np.float64).reshape(-1, 2), (rows * columns, 1))
        levels.append(np.concatenate((centres, sides), axis=1))
    return np.concatenate(levels).astype(np.float32)


def anchor_hash(anchors: npt.NDArray[np.float32]) -> str:
    """SHA-256 (hex) of the anchors as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(anchors, "<f4").tobytes()).hexdigest()
