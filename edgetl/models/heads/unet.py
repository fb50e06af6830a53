"""A U-Net whose way down is the backbone. O. Ronneberger et al., "U-Net", MICCAI 2015, arXiv:1505.04597.

From the deepest map on, each is enlarged to twice its size, joined with the backbone's map of that size, and mixed by a
separable convolution. For fine structures: its logits are at half the image's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.heads.mask_layers import convolution, decoder_of_masks, logits_of, separable
from edgetl.models.taps import Taps

__all__ = ["UNet", "attach", "decoder"]

STRIDES = (2, 4, 8, 16, 32)
_WIDTHS = (96, 48, 32, 24)
_DEEPEST = 160
"""Channels that are left of the deepest map, which often has a thousand for its labels."""

decoder = decoder_of_masks


class UNet(nn.Module):
    """Maps of stride 2 to 32 to logits (N, h, w, labels) at stride 2."""

    def __init__(self, channels: Sequence[int], labels: int, widths: Sequence[int]) -> None:
        super().__init__()
        *skips, deepest = channels
        self.deepest = convolution(deepest, _DEEPEST)
        inputs = [_DEEPEST, *widths[:-1]]
        self.up = nn.ModuleList(
            separable(below + skip, width) for below, skip, width in zip(inputs, reversed(skips), widths, strict=True)
        )
        self.logits = nn.Conv2d(widths[-1], labels, 1)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        *skips, values = maps
        values = self.deepest(values)
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            # The nearest value: twice as large it shifts nothing, and integers stay what they are.
            larger = F.interpolate(values, size=skip.shape[-2:], mode="nearest")
            values = layer(torch.cat((larger, skip), dim=1))
        return logits_of(self.logits(values))


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    """A U-Net around `trunk`. Raises `UsageError` for a backbone without maps at its strides."""
    backbone = Taps(trunk, STRIDES, crop=crop, channels=channels)
    return HeadedNetwork(backbone, UNet(backbone.channels, labels, settings.get("widths", _WIDTHS)))
