"""LR-ASPP: the lightest of the heads for masks. A. Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, 6.4.

The deepest map is weighted by what the whole image shows, interpolated to stride 8, and joined there with an earlier
map that knows where edges are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.heads.mask_layers import convolution, decoder_of_masks, logits_of, resized_like
from edgetl.models.taps import Taps

__all__ = ["LrAspp", "attach", "decoder"]

LOW, HIGH = 8, 16
"""Strides. The backbone is dilated to end with the second."""
_WIDTH = 128

decoder = decoder_of_masks


class LrAspp(nn.Module):
    """Maps of stride 8 and 16 to logits (N, h, w, labels) at stride 8."""

    def __init__(self, low: int, high: int, labels: int, width: int) -> None:
        super().__init__()
        self.project = convolution(high, width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, width, 1, bias=False), nn.Sigmoid())
        self.low_logits = nn.Conv2d(low, labels, 1)
        self.high_logits = nn.Conv2d(width, labels, 1)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        low, high = maps
        gated = self.project(high) * self.gate(high)
        return logits_of(self.low_logits(low) + self.high_logits(resized_like(gated, low)))


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    """LR-ASPP behind `trunk`. Raises `UsageError` for a backbone without maps at its strides."""
    backbone = Taps(trunk, (LOW, HIGH), crop=crop, channels=channels, dilate=True)
    low, high = backbone.channels
    return HeadedNetwork(backbone, LrAspp(low, high, labels, settings.get("width", _WIDTH)))
