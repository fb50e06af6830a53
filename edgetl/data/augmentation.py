"""What augmentation varies, and by how much: presets by name, fields of them that a recipe may change.

`edgetl.data.augment` does it. Here is no torch, so that a recipe is read without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgetl_runtime.errors import UsageError, nearest

__all__ = ["PRESETS", "AugmentOptions", "Augmentation", "was_mirrored"]

Span: TypeAlias = tuple[float, float]

_OUTSIDE = ("reflect", "edge", "black")


@dataclass(frozen=True)
class Augmentation:
    """How a training image may differ from how evaluation sees it; all zeros and ones are evaluation itself.

    ``area`` is the share of the image's centre that is seen (random resized crop; None: evaluation's crop), ``ratio``
    the span of its width : height, where 1 means the proportions of the network's input. ``mirror`` and ``flip`` are
    the probabilities of left for right and top for bottom. ``rotate`` and ``shear`` are degrees to either side,
    ``scale`` a span of factors, ``shift`` a share of the crop. ``brightness``, ``contrast`` and ``saturation`` are the
    most by which a factor differs from 1. ``outside`` is what is seen beyond the image: ``reflect``, ``edge`` (its last
    pixel) or ``black``.
    Raises `UsageError` for values that make no sense.
    """

    area: Span | None = None
    ratio: Span = (1.0, 1.0)
    mirror: float = 0.0
    flip: float = 0.0
    rotate: float = 0.0
    scale: Span = (1.0, 1.0)
    shift: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    outside: str = "reflect"

    def __post_init__(self) -> None:
        if self.area is not None:
            self._require(_rises(self.area, 0.0, 1.0), "area", "two shares of the image, such as 0.35, 1.0")
        self._require(_rises(self.ratio, 0.0, math.inf), "ratio", "two ratios of width to height, such as 0.75, 1.33")
        self._require(_rises(self.scale, 0.0, math.inf), "scale", "two factors, such as 0.9, 1.1")
        for name in ("mirror", "flip"):
            self._require(0.0 <= getattr(self, name) <= 1.0, name, "a probability, from 0 to 1")
        for name in ("shift", "brightness", "contrast", "saturation"):
            self._require(0.0 <= getattr(self, name) <= 1.0, name, "from 0 to 1")
        self._require(0.0 <= self.rotate <= 180.0, "rotate", "degrees, from 0 to 180")
        self._require(0.0 <= self.shear < 45.0, "shear", "degrees, from 0, below 45")
        self._require(self.outside in _OUTSIDE, "outside", nearest(str(self.outside), _OUTSIDE))

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise UsageError(f"{name} = {getattr(self, name)!r} makes no sense", fix=allowed)

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        still = (self.mirror, self.flip, self.rotate, self.shift, self.shear) == (0.0,) * 5
        return self.area is not None or self.scale != (1.0, 1.0) or not still

    @property
    def colours(self) -> bool:
        """Whether pixels change their values."""
        return (self.brightness, self.contrast, self.saturation) != (0.0,) * 3


def _rises(span: Span, above: float, most: float) -> bool:
    return len(span) == 2 and above < span[0] <= span[1] <= most and math.isfinite(span[1])


PRESETS: dict[str, Augmentation] = {
    # Natural photos: part of the image, mirrored, in other light.
    "similar": Augmentation(
        area=(0.35, 1.0), ratio=(3 / 4, 4 / 3), mirror=0.5, brightness=0.2, contrast=0.2, saturation=0.2
    ),
    # Unlike photos, without an up or a left: microscopes, satellites, parts on a belt.
    "different": Augmentation(
        mirror=0.5,
        flip=0.5,
        rotate=180.0,
        scale=(0.8, 1.25),
        shift=0.05,
        shear=8.0,
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
    ),
    # What would be another thing mirrored: digits, signs, text.
    "shift": Augmentation(rotate=12.0, scale=(0.88, 1.12), shift=0.1, outside="black"),
    # Photos with boxes: a part of them, or smaller with a border, so that objects are seen in many sizes.
    "objects": Augmentation(
        area=(0.4, 1.0),
        ratio=(3 / 4, 4 / 3),
        mirror=0.5,
        scale=(0.6, 1.0),
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
        outside="black",
    ),
    # As in evaluation.
    "none": Augmentation(),
}


@dataclass(frozen=True)
class AugmentOptions:
    """Fields of a preset that are to be other (see `Augmentation`); None leaves the preset's.

    Raises `UsageError` for values that make no sense.
    """

    area: Span | None = None
    ratio: Span | None = None
    mirror: float | None = None
    flip: float | None = None
    rotate: float | None = None
    scale: Span | None = None
    shift: float | None = None
    shear: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    outside: str | None = None

    def __post_init__(self) -> None:
        self.on("none")

    def on(self, preset: str) -> Augmentation:
        """The preset of that name with these fields. Raises `UsageError` for an unknown name."""
        if preset not in PRESETS:
            raise UsageError(f"unknown augmentation {preset!r}", fix=nearest(preset, list(PRESETS)))
        given = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(PRESETS[preset], **given)


def was_mirrored(training: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's ``training`` tells of mirrored images, so that a mirrored one is no other thing.

    Checkpoints of older versions tell a name only; ``photo`` was what ``similar`` is now.
    """
    recorded = training.get("augmentation")
    if isinstance(recorded, Mapping):
        return float(recorded.get("mirror", 0.0)) > 0.0
    name = training.get("options", {}).get("augment", "photo")
    return name == "photo" or (name in PRESETS and PRESETS[name].mirror > 0.0)
