"""What the heads for masks are made of. All of it is taken by the converters, and rounded to int8, as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["convolution", "decoder_of_masks", "logits_of", "resized_like", "separable"]


def convolution(
    inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """A convolution that keeps the size of the map, its batch norm, and ReLU where it is `active`."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if active else []))


def separable(inputs: int, outputs: int, *, dilation: int = 1) -> nn.Sequential:
    """3 x 3 in every channel by itself, then 1 x 1: a ninth of the work of a whole one."""
    return nn.Sequential(convolution(inputs, inputs, 3, dilation=dilation, groups=inputs), convolution(inputs, outputs))


def resized_like(values: Tensor, other: Tensor) -> Tensor:
    """Maps (N, C, h, w) interpolated bilinearly to the size of `other`, with half-pixel centres."""
    return F.interpolate(values, size=other.shape[-2:], mode="bilinear", align_corners=False)


def logits_of(values: Tensor) -> dict[str, Tensor]:
    """The outputs of a head for masks: (N, labels, h, w) with the labels last, as the device takes them."""
    return {"logits": values.permute(0, 2, 3, 1)}


def decoder_of_masks(settings: Mapping[str, Any], crop: tuple[int, int]) -> dict[str, Any]:
    """What the device has to know: the size that logits are interpolated to before the largest is looked for."""
    return {"size": list(crop)}
