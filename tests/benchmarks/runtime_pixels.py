"""The preprocessing beside torchvision's presets, pixel by pixel: real photos, and sizes that no photo has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from runtime_lines import Line

from edgetl.data.dataset import load_photos
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess

__all__ = ["largest_difference", "odd_images", "pixel_lines"]

PHOTOS, ODD_SIZES, SEED = "imagenet_sample", 200, 0
_SPECS = (
    Preprocess(256, (224, 224), "bilinear"),  # MobileNetV2
    Preprocess(256, (224, 224), "bicubic"),  # EfficientNet-B0
)
_LONGEST, _THINNEST = 900, 12


def pixel_lines(data: Path) -> list[Line]:
    """Largest difference in grey levels, for photos and odd sizes, by interpolation; the target is none."""
    photos = [str(sample.source) for sample in load_photos(data / PHOTOS)]
    lines: list[Line] = []
    for spec in _SPECS:
        for what, images in (
            (f"{len(photos)} photos", map(_rgb, photos)),
            (f"{ODD_SIZES} odd sizes", odd_images(ODD_SIZES)),
        ):
            found = float(largest_difference(images, spec))
            name = f"preprocessing against torchvision, {spec.interpolation}, {what}"
            lines.append(Line(name, "grey levels", found, limit=0.0))
    return lines


def largest_difference(images: Iterable[Image.Image], spec: Preprocess) -> int:
    """Of any pixel of any image, between `preprocess` and torchvision's Resize and CenterCrop on a PIL image."""
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    resize = Resize(spec.resize, InterpolationMode(spec.interpolation), antialias=True)
    center_crop = CenterCrop(list(spec.crop))
    largest = 0
    for image in images:
        expected: npt.NDArray[Any] = np.asarray(center_crop(resize(image)), np.int16)
        largest = max(largest, int(np.abs(expected - preprocess(image, spec)).max()))
    return largest


def odd_images(n: int) -> Iterator[Image.Image]:
    """Noise in sizes drawn with a fixed seed: enlarged and reduced, long and thin, smaller than the crop, one pixel."""
    random = np.random.default_rng(SEED)
    for number in range(n):
        short = int(random.integers(1, 400))
        long = int(random.integers(short, min(_LONGEST, short * _THINNEST) + 1))
        size = (short, long) if number % 2 else (long, short)
        yield Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))


def _rgb(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
