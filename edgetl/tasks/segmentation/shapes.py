"""Photos of the demo, made in code: circles, squares and triangles on backgrounds that are no plain colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Dataset
from edgetl.tasks.segmentation.mask_files import Mask, fill_outline
from edgetl.tasks.segmentation.reading import TASK, sample_of
from edgetl_runtime.manifest import Label

__all__ = ["SHAPES", "MaskArray", "demo_shapes"]

SHAPES = ("background", "circle", "square", "triangle")
_CORNERS = {"circle": 48, "square": 4, "triangle": 3}
_SIDE = 64
_PHOTOS = {"train": 288, "val": 48, "test": 80}


@dataclass(frozen=True, eq=False)
class MaskArray(Mask):
    """A mask that is in memory already."""

    pixels: npt.NDArray[np.uint8]
    told: str

    @property
    def where(self) -> str:
        """What it is called."""
        return self.told

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def read(self) -> npt.NDArray[np.uint8]:
        """The pixels, as a copy."""
        return self.pixels.copy()


def demo_shapes(seed: int = 0) -> Dataset:
    """416 photos of 64 x 64 pixels with one to three shapes each; the same for a seed."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, n in _PHOTOS.items():
        samples = []
        for index in range(n):
            photo, mask = _scene(rng)
            name = f"shapes-{split}-{index:03d}"
            samples.append(sample_of(photo, MaskArray(mask, name), name))
        splits[split] = tuple(samples)
    labels = tuple(Label(name, name) for name in SHAPES)
    return Dataset("shapes", labels, splits["train"], splits["val"], splits["test"], task=TASK)


def _scene(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A photo (H, W, 3) and its mask (H, W)."""
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    levels = _background(rng)
    for _ in range(int(rng.integers(1, 4))):
        label = int(rng.integers(1, len(SHAPES)))
        inside = np.zeros_like(mask)
        fill_outline(inside, _outline(rng, SHAPES[label]), 1)
        mask[inside == 1] = label
        levels[inside == 1] = _colour(rng, label) + 0.2 * (levels[inside == 1] - 128)
    levels += rng.normal(0.0, 6.0, levels.shape)
    return np.clip(levels, 0, 255).astype(np.uint8), mask


def _colour(rng: np.random.Generator, label: int) -> npt.NDArray[np.float64]:
    """Each label has a channel that it is mostly bright in: with the outline that is learned in a minute."""
    levels = rng.uniform(20, 110, 3)
    levels[label - 1] = rng.uniform(170, 250)
    return levels


def _background(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Waves of nearly grey, float64 (H, W, 3)."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(1, 6), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)[:, :, np.newaxis]
    one, other = rng.uniform(60, 190) + rng.uniform(-15, 15, 3), rng.uniform(-45, 45)
    levels: npt.NDArray[np.float64] = one + other * wave
    return levels


def _outline(rng: np.random.Generator, shape: str) -> list[tuple[float, float]]:
    corners, radius = _CORNERS[shape], rng.uniform(8, 17)
    centre = rng.uniform(0.8 * radius, _SIDE - 0.8 * radius, 2)
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * (2 * np.pi / corners)
    x, y = centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))
