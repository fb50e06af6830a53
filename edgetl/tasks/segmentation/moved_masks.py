"""Masks where the pixels are, as tensors: of a batch as it is stored, and where augmentation moved it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetl.tasks.segmentation.framed_masks import in_frame
from edgetl.tasks.segmentation.mask_files import IGNORED
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.placing import place

__all__ = ["masks_in_frame", "moved"]


def masks_in_frame(masks: Sequence[npt.NDArray[np.uint8]], frame: Preprocess) -> Tensor:
    """uint8 (n, height, width): masks of photos (H, W) where `frame` puts the photos; `IGNORED` beside them."""
    placed = [in_frame(mask, place((mask.shape[1], mask.shape[0]), frame)) for mask in masks]
    return torch.from_numpy(np.stack(placed)) if placed else torch.empty((0, *frame.crop), dtype=torch.uint8)


def moved(masks: Tensor, moves: Tensor, crop: tuple[int, int]) -> Tensor:
    """Masks where augmentation moved the pixels, of every pixel the nearest label.

    Args:
        masks: uint8 (B, height, width), as the images were stored.
        moves: (B, 2, 3), from the crop to the stored image: `edgetl.data.augment.moves`.
        crop: (height, width) of the result.

    Returns:
        uint8 (B, height, width), `IGNORED` where the image had nothing.
    """
    height, width = crop
    matrix = moves.to(masks.device)
    x = torch.arange(width, dtype=matrix.dtype, device=masks.device) + 0.5
    y = (torch.arange(height, dtype=matrix.dtype, device=masks.device) + 0.5)[:, None]
    column, row = (
        (matrix[:, axis, 0, None, None] * x + matrix[:, axis, 1, None, None] * y + matrix[:, axis, 2, None, None])
        .floor()
        .long()
        for axis in (0, 1)
    )
    rows, columns = masks.shape[1:]
    outside = (row < 0) | (row >= rows) | (column < 0) | (column >= columns)
    images = torch.arange(len(masks), device=masks.device)[:, None, None]
    found = masks[images, row.clamp(0, rows - 1), column.clamp(0, columns - 1)]
    return found.masked_fill_(outside, IGNORED)
