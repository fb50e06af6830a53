"""Decoding inside the files, for apps that do not decode themselves: `label_map` of the device as torch modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgetl.tasks.task import Size

__all__ = ["LabelMap", "Upsampling"]


class Upsampling(nn.Module):
    """``logits`` (N, h, w, C) to those at the tensor's size (N, H, W, C), bilinearly with half-pixel centres."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        """The logits."""
        maps = outputs["logits"].permute(0, 3, 1, 2)
        return (nn.functional.interpolate(maps, self.size, mode="bilinear").permute(0, 2, 3, 1),)


class LabelMap(Upsampling):
    """``logits`` (N, h, w, C) to the label of every pixel of the tensor, uint8 (N, H, W)."""

    def forward(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        """The labels."""
        return (super().forward(outputs)[0].argmax(3).to(torch.uint8),)
