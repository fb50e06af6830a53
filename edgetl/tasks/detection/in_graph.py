"""Decoding inside the files, for apps that do not decode themselves: `edgetl_runtime.tasks.boxes` as a torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgetl_runtime.tasks.boxes import LARGEST_LOG
from edgetl_runtime.tasks.detection import anchors_of

__all__ = ["BoxDecoding"]


class BoxDecoding(nn.Module):
    """``boxes`` (N, A, 4) and ``logits`` (N, A, C + 1) to boxes (N, A, 4) - left, top, right, bottom as shares of the
    tensor's sides, not cut at its edges - and scores (N, A, C) of the labels, without the background."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor

    def __init__(self, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.variances = [float(value) for value in decoder["variances"]]
        for name, values in zip(("x", "y", "width", "height"), torch.from_numpy(anchors_of(decoder)).T, strict=True):
            self.register_buffer(name, values.contiguous())

    def forward(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes and scores."""
        deltas = [outputs["boxes"][:, :, place] * variance for place, variance in enumerate(self.variances)]
        x, y = self.x + deltas[0] * self.width, self.y + deltas[1] * self.height
        half_width = self.width * deltas[2].clamp(max=LARGEST_LOG).exp() / 2
        half_height = self.height * deltas[3].clamp(max=LARGEST_LOG).exp() / 2
        corners = (x - half_width, y - half_height, x + half_width, y + half_height)
        return torch.stack(corners, 2), outputs["logits"].softmax(2)[:, :, 1:]
