"""Mixup and CutMix: two images of a batch in one, and their labels in the same shares.

Zhang et al. 2018, https://arxiv.org/abs/1710.09412, and Yun et al. 2019, https://arxiv.org/abs/1905.04899.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Mix", "draw_mix"]


@dataclass(frozen=True)
class Mix:
    """How the images of a step are mixed with those in the reverse order: `share` (0..1) is that of the first.

    ``box`` is the part that comes from the second, as fractions (top, left, bottom, right); ``None`` mixes every pixel.
    """

    share: float
    box: tuple[float, float, float, float] | None = None

    def images(self, images: Tensor) -> tuple[Tensor, float]:
        """Mixed (B, C, H, W), and the share of the first images that is left after rounding to pixels."""
        others = images.flip(0)
        if self.box is None:
            return torch.lerp(others, images, self.share), self.share
        height, width = images.shape[2:]
        top, bottom = round(self.box[0] * height), round(self.box[2] * height)
        left, right = round(self.box[1] * width), round(self.box[3] * width)
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def draw_mix(mixup: float, cutmix: float, *, seed: int, epoch: int, step: int) -> Mix | None:
    """How a step is mixed: the same for the same seed, epoch and step. With both alphas each takes half of them."""
    if mixup <= 0 and cutmix <= 0:
        return None
    rng = np.random.default_rng((seed, epoch, step, 1))
    cuts = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if cuts else rng.beta(mixup, mixup))
    if not cuts:
        return Mix(share)
    side = math.sqrt(1 - share)
    y, x = rng.random(2)
    top, bottom = np.clip((y - side / 2, y + side / 2), 0, 1)
    left, right = np.clip((x - side / 2, x + side / 2), 0, 1)
    return Mix(share, (float(top), float(left), float(bottom), float(right)))
