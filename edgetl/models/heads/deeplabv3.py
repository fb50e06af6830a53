"""DeepLabv3 with separable convolutions, and v3+, which joins an earlier map. L.-C. Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", arXiv:1706.05587, and "Encoder-Decoder with Atrous Separable Convolution
for Semantic Image Segmentation", arXiv:1802.02611.

The deepest map is looked at with several distances between pixels at once, and as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.heads.mask_layers import convolution, decoder_of_masks, logits_of, resized_like, separable
from edgetl.models.taps import Taps

__all__ = ["AtrousPyramid", "DeepLab", "attach", "decoder"]

HIGH = 16
"""The stride that the backbone is dilated to end with."""
_LOW = 4
_RATES = (6, 12, 18)
_WIDTH, _LOW_WIDTH = 256, 48

decoder = decoder_of_masks


class AtrousPyramid(nn.Module):
    """A map seen at several rates: (N, inputs, h, w) to (N, width, h, w)."""

    def __init__(self, inputs: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        near = [separable(inputs, width, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([convolution(inputs, width), *near])
        # Without a batch norm: of one value for each image there are no statistics in a small batch.
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, width, 1), nn.ReLU())
        self.join = convolution((len(rates) + 2) * width, width)

    def forward(self, values: Tensor) -> Tensor:
        """What all branches see, joined."""
        seen = [branch(values) for branch in self.branches]
        return self.join(torch.cat((*seen, self.whole(values).expand_as(seen[0])), dim=1))  # type: ignore[no-any-return]


class DeepLab(nn.Module):
    """The deepest map, and for v3+ an earlier one before it, to logits (N, h, w, labels) at the stride of the first."""

    def __init__(self, channels: Sequence[int], labels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.pyramid = AtrousPyramid(channels[-1], width, rates)
        self.low = convolution(channels[0], _LOW_WIDTH) if len(channels) > 1 else None
        self.refine = separable(width + (_LOW_WIDTH if self.low is not None else 0), width)
        self.logits = nn.Conv2d(width, labels, 1)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        values = self.pyramid(maps[-1])
        if self.low is not None:
            values = torch.cat((resized_like(values, maps[0]), self.low(maps[0])), dim=1)
        return logits_of(self.logits(self.refine(values)))


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    """DeepLabv3 behind `trunk`; v3+ where ``plus`` is set. Raises `UsageError` for a backbone without its maps."""
    strides = (_LOW, HIGH) if settings.get("plus", False) else (HIGH,)
    backbone = Taps(trunk, strides, crop=crop, channels=channels, dilate=True)
    width, rates = settings.get("width", _WIDTH), settings.get("rates", _RATES)
    return HeadedNetwork(backbone, DeepLab(backbone.channels, labels, width, rates))
