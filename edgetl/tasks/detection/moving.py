"""Boxes where augmentation moved the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["moved_boxes"]

_LEAST_SEEN = 0.4
"""Share of a box that must be left in the image for it to be learned; less of it is neither object nor background."""


def moved_boxes(targets: Tensor, moves: Tensor, crop: tuple[int, int]) -> Tensor:
    """Boxes (B, M, 6) in pixels of the image before, as boxes of what augmentation made of it.

    Args:
        targets: x1, y1, x2, y2, label, flag; rows of label -1 are no boxes.
        moves: (B, 2, 3) from the pixels after to those before.
        crop: (height, width) of the image after.

    Returns:
        (B, M, 6): cut at the edges. What is mostly outside has flag 2, what is all outside label -1.
    """
    back = moves.double()
    forth = torch.linalg.inv(back[:, :, :2])
    x1, y1, x2, y2 = targets[..., :4].double().unbind(-1)
    corners = torch.stack((torch.stack((x1, x2, x1, x2), -1), torch.stack((y1, y1, y2, y2), -1)), -1)
    points = torch.einsum("bij,bmkj->bmki", forth, corners - back[:, None, None, :, 2])
    whole = torch.cat((points.amin(2), points.amax(2)), -1)
    height, width = crop
    limit = torch.tensor([width, height, width, height], dtype=whole.dtype, device=whole.device)
    inside = torch.minimum(whole.clamp(min=0), limit)
    seen = _area(inside) / _area(whole).clamp(min=1e-9)
    result = targets.clone()
    result[..., :4] = inside.to(targets.dtype)
    result[..., 5] = torch.where(seen < _LEAST_SEEN, targets[..., 5].clamp(min=2), targets[..., 5])
    result[..., 4] = torch.where(_area(inside) < 1, -1, targets[..., 4])
    return result


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)
