"""A head of the toy task: a bump for each blob on a map of stride 8, summed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.taps import Taps


class Bumps(nn.Module):
    """Sums a map of ``scale`` times what a 1 x 1 convolution sees."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.convolution, self.scale = nn.Conv2d(channels, 1, 1), scale

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"count": self.scale * self.convolution(maps[0]).mean((2, 3))}


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    taps = Taps(trunk, (8,), crop=crop, channels=channels)
    return HeadedNetwork(taps, Bumps(taps.channels[0], settings["scale"]))


def decoder(settings: Mapping[str, Any], crop: tuple[int, int]) -> dict[str, Any]:
    return {"scale": settings["scale"]}
