"""Shapes on backgrounds, made in code: a data set that a detector learns in two minutes."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from edgetl.data.dataset import Dataset, Sample
from edgetl_runtime.manifest import Label

__all__ = ["SHAPES", "demo_shapes"]

SHAPES = ("circle", "square", "star", "triangle")
_SIDE = 128
_PHOTOS = {"train": 240, "val": 60, "test": 60}
_MOST, _TRIES, _LARGEST_OVERLAP = 5, 20, 0.1
_SMOOTH = 2
"""Shapes are drawn so many times as large and made smaller, for smooth edges."""


def demo_shapes(seed: int = 0) -> Dataset:
    """360 pictures of 128 x 128 pixels with none to five circles, squares, stars and triangles each."""
    rng = np.random.default_rng(seed)
    splits = {
        split: tuple(_sample(rng, f"{split}-{number:03d}") for number in range(n)) for split, n in _PHOTOS.items()
    }
    labels = tuple(Label(name, name) for name in SHAPES)
    return Dataset("shapes", labels, splits["train"], splits["val"], splits["test"], task="detection")


def _sample(rng: np.random.Generator, name: str) -> Sample:
    image = _background(rng).resize((_SIDE * _SMOOTH, _SIDE * _SMOOTH))
    boxes: list[tuple[float, ...]] = []
    for _ in range(int(rng.integers(0, _MOST + 1))):
        for _ in range(_TRIES):
            size = float(np.exp(rng.uniform(math.log(18), math.log(56))))
            x, y = (float(rng.uniform(size / 2, _SIDE - size / 2)) for _ in range(2))
            label = int(rng.integers(len(SHAPES)))
            points = _outline(label, x, y, size / 2, float(rng.uniform(0, 2 * math.pi)))
            box = (*points.min(axis=0), *points.max(axis=0))
            if all(_common(box, other) < _LARGEST_OVERLAP for other in boxes) and min(box) >= 0 and max(box) <= _SIDE:
                colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), 0.9, rng.uniform(0.6, 1.0)))
                ImageDraw.Draw(image).polygon([tuple(p) for p in (points * _SMOOTH).tolist()], fill=colour)
                boxes.append((*map(float, box), float(label), 0.0))
                break
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    target = np.array(boxes, np.float64).reshape(-1, 6)
    label = int(target[0, 4]) if len(target) else 0
    return Sample(noisy, label, name, target, (_SIDE, _SIDE))


def _background(rng: np.random.Generator) -> Image.Image:
    """Clouds of pale colours."""
    small = rng.uniform(90, 230, (6, 6, 3)).astype(np.uint8)
    cloud = Image.fromarray(small).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    grey = Image.merge("RGB", [cloud.convert("L")] * 3)
    return Image.blend(grey, cloud, 0.3).filter(ImageFilter.GaussianBlur(1))


def _outline(label: int, x: float, y: float, radius: float, turn: float) -> npt.NDArray[np.float64]:
    """Corners (n, 2) of a shape around x, y."""
    corners = {"circle": 40, "square": 4, "star": 10, "triangle": 3}[SHAPES[label]]
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    radii = np.full(corners, radius)
    if SHAPES[label] == "star":
        radii[1::2] *= 0.45
    return np.stack((x + radii * np.cos(angles), y + radii * np.sin(angles)), axis=1)


def _common(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Share of the smaller of two boxes that lies in both."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(0.0, wide) * max(0.0, high) / smaller
