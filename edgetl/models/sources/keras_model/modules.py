"""What Keras' layers do that no module of torch does alone: small ones, in NCHW."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AverageWithoutBorder",
    "ChannelNorm",
    "FlattenLast",
    "GlobalPool",
    "Reversed",
    "Scale",
    "ScaledBy",
    "ToMap",
    "TwoLogits",
]


class Scale(nn.Module):
    """``x * scale + shift``: for maps (1, C, 1, 1), for rows (C,), or one for all."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, C) to the same shape."""
        return x * self.scale + self.shift


class ScaledBy(nn.Module):
    """``x * gamma``, a weight for each channel (ConvNeXt's LayerScale)."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return x * self.gamma


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        normal: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normal


class GlobalPool(nn.Module):
    """The mean or the maximum of each channel: (N, C), or (N, C, 1, 1) with ``keep``."""

    def __init__(self, kind: str, *, keep: bool) -> None:
        super().__init__()
        self.kind, self.keep = kind, keep

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C) or (N, C, 1, 1)."""
        pooled = F.adaptive_avg_pool2d(x, 1) if self.kind == "mean" else F.adaptive_max_pool2d(x, 1)
        return pooled if self.keep else torch.flatten(pooled, 1)


class AverageWithoutBorder(nn.Module):
    """Averages with ``padding="same"``, which count no place outside of the image.

    Where as many rows lie in front as behind this is torch's own; otherwise sums over a zero border are divided by how
    many places of the image they have.
    """

    share: Tensor

    def __init__(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        left, right, top, bottom = padding
        self.even = left == right and top == bottom
        inside = F.pad(torch.ones(1, 1, *size), padding)
        self.register_buffer("share", 1.0 / F.avg_pool2d(inside, kernel, stride), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to fewer rows and columns."""
        if self.even:
            left, _, top, _ = self.padding
            return F.avg_pool2d(x, self.kernel, self.stride, padding=(top, left), count_include_pad=False)
        return F.avg_pool2d(F.pad(x, self.padding), self.kernel, self.stride) * self.share


class FlattenLast(nn.Module):
    """(N, C, H, W) to (N, H * W * C), in Keras' order."""

    def forward(self, x: Tensor) -> Tensor:
        """The values of a place side by side."""
        return torch.flatten(x.permute(0, 2, 3, 1), 1)


class ToMap(nn.Module):
    """(N, H * W * C) in Keras' order to (N, C, H, W)."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """A map of one place needs no other order."""
        height, width, channels = self.shape
        if height == width == 1:
            return x.reshape(-1, channels, 1, 1)
        return x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


class Reversed(nn.Module):
    """The channels of (N, C, H, W) in reverse."""

    def forward(self, x: Tensor) -> Tensor:
        """RGB to BGR."""
        return torch.flip(x, [1])


class TwoLogits(nn.Module):
    """One logit z, of a sigmoid, as two of a softmax, -z/2 and z/2: the same probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1) to (N, 2)."""
        half = x * 0.5
        return torch.cat((-half, half), 1)
