"""The head that comes with torchvision's SSDLite, and the anchors that its weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from edgetl.models.heads.published import attach
from edgetl.models.heads.ssdlite import decoder as decoder_of_ssdlite

__all__ = ["attach", "decoder", "published_settings"]

_LEVELS = 6
_STRIDES = [16, 32]


def published_settings(crop: tuple[int, int]) -> dict[str, Any]:
    """Strides and shapes of the anchors, as `edgetl.tasks.detection.anchors.fit_anchors` gives them for a data set."""
    generator = DefaultBoxGenerator([[2, 3]] * _LEVELS, min_ratio=0.2, max_ratio=0.95)
    shapes = [pairs.clamp(0, 1).tolist() for pairs in generator._wh_pairs]  # no other place has them
    return {"strides": _STRIDES, "shapes": shapes, "crop": list(crop)}


def decoder(settings: Mapping[str, Any], crop: tuple[int, int]) -> dict[str, Any]:
    """How the outputs are read: goes into the manifest."""
    return decoder_of_ssdlite(settings, crop)
