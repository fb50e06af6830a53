"""A photo's mask in the frame that its pixels are stored in; without torch, which a device that verifies lacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgetl.tasks.segmentation.mask_files import IGNORED
from edgetl_runtime.placing import Placed

__all__ = ["in_frame"]


def in_frame(mask: npt.NDArray[np.uint8], placed: Placed) -> npt.NDArray[np.uint8]:
    """A mask (H, W) of a photo as one of the tensor: of every pixel the label that its centre lies on."""
    rows, inside_rows = _sources(1, placed)
    columns, inside_columns = _sources(0, placed)
    found: npt.NDArray[np.uint8] = mask.take(columns, axis=1).take(rows, axis=0)
    found[~inside_rows] = IGNORED
    found[:, ~inside_columns] = IGNORED
    return found


def _sources(axis: int, placed: Placed) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The row or column of the photo for each one of the tensor, and whether the photo covers it."""
    length = placed.photo[axis]
    inner = np.arange(placed.tensor[axis]) + 0.5 - (placed.left, placed.top)[axis]
    source = np.floor(inner * length / placed.resized[axis]).astype(np.intp)
    return np.clip(source, 0, length - 1), (inner >= 0) & (inner <= placed.resized[axis])
