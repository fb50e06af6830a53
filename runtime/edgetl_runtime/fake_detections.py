"""A detector without files and without an engine, so that an application can be tested anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import UsageError
from edgetl_runtime.fake import fake_manifest
from edgetl_runtime.manifest import Preprocess, TensorSpec
from edgetl_runtime.session import FakeSession, Tensors
from edgetl_runtime.tasks.anchors import anchor_hash, make_anchors
from edgetl_runtime.tasks.detection import Detector

__all__ = ["fake_detector"]

_MOST = 100
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
_Object = tuple[str, float, tuple[float, float, float, float]]


def fake_detector(
    labels: Sequence[str],
    answer: Callable[[npt.NDArray[np.uint8]], Iterable[_Object]],
    *,
    size: tuple[int, int] = (320, 320),
    channels: int = 3,
) -> Detector:
    """A `Detector` that decodes and preprocesses like a real one, and lets `answer` decide.

    `answer` gets the preprocessed image, (height, width, `channels`) uint8 of `size` = (height, width), the photo
    stretched to it, and returns at most 100 objects: label, score (above 0, below 1), and left, top, right, bottom in
    pixels of that image. It may raise any error that the application is to be tested with. Raises `UsageError` without
    labels, and for objects that cannot be.
    """
    grids, shapes = [[1, 1]], [[[1.0, 1.0]] * _MOST]
    anchors = make_anchors(grids, shapes)
    boxes = TensorSpec("boxes", "float32", (1, _MOST, 4))
    logits = TensorSpec("logits", "float32", (1, _MOST, len(labels) + 1))
    manifest = fake_manifest(
        "detection",
        labels,
        Preprocess(resize=0, crop=size, channels=channels, mode="stretch"),
        boxes,
        outputs=(boxes, logits),
        decoder={
            "head": "fake",
            "anchors": {"grids": grids, "shapes": shapes, "sha256": anchor_hash(anchors)},
            "variances": list(_VARIANCES),
            "scores": "softmax",
            "score": 0.3,
            "iou": 0.5,
            "most": _MOST,
        },
    )

    def compute(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        objects = list(answer(feeds["image"][0]))
        if len(objects) > _MOST:
            raise UsageError(f"a fake detector gave {len(objects)} objects", fix=f"at most {_MOST}")
        return _encoded(objects, list(labels), size)

    return Detector(manifest, manifest.variants[0], FakeSession((manifest.input,), manifest.all_outputs, compute))


def _encoded(objects: Sequence[_Object], labels: list[str], size: tuple[int, int]) -> Tensors:
    """The outputs that decode to `objects`: the rest is background."""
    height, width = size
    boxes = np.zeros((1, _MOST, 4), np.float32)
    logits = np.full((1, _MOST, len(labels) + 1), -30.0, np.float32)
    logits[0, :, 0] = 0.0
    for place, (label, score, (left, top, right, bottom)) in enumerate(objects):
        if label not in labels or not 0.0 < score < 1.0 or not (left < right and top < bottom):
            raise UsageError(
                f"a fake detector of {', '.join(labels)} cannot find {(label, score, (left, top, right, bottom))}",
                fix="one of its own labels, a score above 0 and below 1, left < right, top < bottom",
            )
        centre = ((left + right) / 2 / width - 0.5, (top + bottom) / 2 / height - 0.5)
        sides = (math.log((right - left) / width), math.log((bottom - top) / height))
        boxes[0, place] = np.divide((*centre, *sides), _VARIANCES)
        logits[0, place, 1 + labels.index(label)] = math.log(score / (1 - score))
    return {"boxes": boxes, "logits": logits}
