"""Augmentation: a training image, seen a little differently every epoch.

Written on PIL with an explicit generator for each image: torchvision's transforms draw from the generator of the
process, so with several reading threads a run could not be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import resize_and_crop

__all__ = ["Augmentation", "augmentation"]

Augmentation = Callable[[Image.Image, Preprocess, np.random.Generator], Image.Image]
"""An upright RGB image of any size to one of ``Preprocess.crop``."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_JITTER = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def augmentation(name: str) -> Augmentation:
    """``photo``: part of the image, mirrored, other light; ``shift``: moved, turned and scaled a little, never
    mirrored (digits, signs, text); ``none``: as in evaluation. Raises `UsageError` for another name."""
    if name not in _PRESETS:
        raise UsageError(f"unknown augmentation {name!r}", fix=nearest(name, list(_PRESETS)))
    return _PRESETS[name]


def _photo(image: Image.Image, spec: Preprocess, rng: np.random.Generator) -> Image.Image:
    height, width = spec.crop
    box = _random_box(image.width, image.height, rng)
    image = image.resize((width, height), _FILTERS[spec.interpolation], box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in _JITTER:
        image = enhance(image).enhance(rng.uniform(0.8, 1.2))
    return image


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of 35 to 100 % of the area, sides 3:4 to 4:3 (Inception's random resized crop)."""
    for _ in range(10):
        area = width * height * rng.uniform(0.35, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)  # an image too long for these ratios
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _shift(image: Image.Image, spec: Preprocess, rng: np.random.Generator) -> Image.Image:
    image = resize_and_crop(image, spec)
    angle, scale = math.radians(rng.uniform(-12, 12)), rng.uniform(0.88, 1.12)
    move_x, move_y = rng.uniform(-0.1, 0.1, 2) * image.size
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # PIL wants the way back: output pixel to input pixel, turned about the centre.
    x, y = image.width / 2, image.height / 2
    matrix = (
        cos,
        sin,
        x - cos * (x + move_x) - sin * (y + move_y),
        -sin,
        cos,
        y + sin * (x + move_x) - cos * (y + move_y),
    )
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _none(image: Image.Image, spec: Preprocess, rng: np.random.Generator) -> Image.Image:
    return resize_and_crop(image, spec)


_PRESETS: dict[str, Augmentation] = {"photo": _photo, "shift": _shift, "none": _none}
