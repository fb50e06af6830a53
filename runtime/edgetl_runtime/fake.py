"""Predictors without files and without an engine, so that an application can be tested anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label, Manifest, Normalize, Preprocess, Requires, TensorSpec, Variant
from edgetl_runtime.session import FakeSession, Tensors
from edgetl_runtime.tasks.classification import Classifier
from edgetl_runtime.tasks.segmentation import Segmenter

__all__ = ["fake_classifier", "fake_manifest", "fake_segmenter"]

_CERTAIN = np.float32(20.0)
"""A logit that leaves other labels, whose logits are 0, a probability of 2e-9."""


def fake_classifier(
    labels: Sequence[str],
    answer: Callable[[npt.NDArray[np.uint8]], Mapping[str, float]],
    *,
    size: tuple[int, int] = (224, 224),
    channels: int = 3,
    pooled: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]] | None = None,
) -> Classifier:
    """A `Classifier` that decodes and preprocesses like a real one, and lets `answer` decide.

    `answer` gets the preprocessed image, (height, width, `channels`) uint8 of `size` = (height, width), and returns the
    probability of labels, each above 0 and up to 1; labels it leaves out share what is missing to 1. It may raise any
    error that the application is to be tested with. `pooled` gets the same image and returns the vector (d,) that
    `Classifier.embed` gives; without it there are no features. Raises `UsageError` without labels, and for labels that
    answer and `labels` do not share.
    """
    height, width = size
    manifest = fake_manifest(
        "classification",
        labels,
        Preprocess(resize=height if height == width else (height, width), crop=size, channels=channels),
        TensorSpec("logits", "float32", (1, len(labels))),
        features=() if pooled is None else (TensorSpec("pooled", "float32", (1, -1)),),
    )

    def compute(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        image = feeds["image"][0]
        outputs = {"logits": np.log(_spread(answer(image), labels))[np.newaxis].astype(np.float32)}
        if pooled is not None:
            outputs["pooled"] = np.asarray(pooled(image), np.float32)[np.newaxis]
        return outputs

    session = FakeSession((manifest.input,), manifest.all_outputs, compute)
    return Classifier(manifest, manifest.variants[0], session)


def fake_segmenter(
    labels: Sequence[str],
    answer: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]],
    *,
    size: tuple[int, int] = (256, 256),
    channels: int = 3,
) -> Segmenter:
    """A `Segmenter` that decodes and preprocesses like a real one, and lets `answer` decide.

    Args:
        labels: Their names, which are also their ids.
        answer: Gets the preprocessed image, (height, width, `channels`) uint8 of `size`, the photo stretched to it;
            returns the index of the label at every place, whole numbers (h, w) of any size. It may raise any error
            that the application is to be tested with.
        size: (height, width) of what the network would take.
        channels: Of an image.

    Raises:
        UsageError: There are no labels, or `answer` gives something else than their indices.
    """
    manifest = fake_manifest(
        "segmentation",
        labels,
        Preprocess(resize=0, crop=size, channels=channels, mode="stretch"),
        TensorSpec("logits", "float32", (1, -1, -1, len(labels)), layout="NHWC"),
    )

    def compute(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        mask = np.asarray(answer(feeds["image"][0]))
        if mask.ndim != 2 or mask.size == 0 or not np.isin(mask, np.arange(len(labels))).all():
            raise UsageError(
                f"a fake segmenter of {len(labels)} labels cannot answer {mask.dtype} {list(mask.shape)} with values "
                f"{np.unique(mask)[:5].tolist()}",
                fix=f"whole numbers (h, w) from 0 to {len(labels) - 1}",
            )
        return {"logits": np.eye(len(labels), dtype=np.float32)[mask.astype(np.intp)][np.newaxis] * _CERTAIN}

    session = FakeSession((manifest.input,), manifest.all_outputs, compute)
    return Segmenter(manifest, manifest.variants[0], session)


def fake_manifest(
    task: str, labels: Sequence[str], preprocess: Preprocess, output: TensorSpec, **more: Any
) -> Manifest:
    """The manifest of a predictor without files; `more` are fields of it. Raises `UsageError` for such labels."""
    if not labels or len(set(labels)) < len(labels):
        raise UsageError(f"labels must be there and differ, not {list(labels)}")
    channels = preprocess.channels
    return Manifest(
        name="fake",
        task=task,
        labels=tuple(Label(label, label) for label in labels),
        input=TensorSpec("image", "uint8", (1, *preprocess.crop, channels), layout="NHWC"),
        preprocess=preprocess,
        normalize=Normalize((0.0,) * channels, (1.0,) * channels),
        output=output,
        variants=(Variant("fake.fp32", "fake", "fp32", (), Requires(FakeSession.engine)),),
        **more,
    )


def _spread(probabilities: Mapping[str, float], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """(labels,) probabilities, with what `probabilities` leaves out spread over the labels that it does not name."""
    unknown = [label for label in probabilities if label not in labels]
    total = sum(probabilities.values())
    if unknown or not all(0.0 < share <= 1.0 for share in probabilities.values()) or total > 1.0 + 1e-9:
        raise UsageError(
            f"a fake classifier of {', '.join(labels)} cannot answer {dict(probabilities)}",
            fix="probabilities above 0, together at most 1, of its own labels",
        )
    # Not quite 0, whose logarithm would be no finite logit.
    rest = max(1.0 - total, 1e-9) / max(1, len(labels) - len(probabilities))
    return np.array([probabilities.get(label, rest) for label in labels])
