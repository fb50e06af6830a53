"""Masks of a data set that do not fit the model: labels in another order, or masks that were turned over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.tasks.segmentation.framed_masks import in_frame
from edgetl.tasks.segmentation.metric import MaskMetric
from edgetl.tasks.segmentation.overlap import confusion_of, counts_of, mean_iou
from edgetl.tasks.segmentation.reading import truth_of
from edgetl.tasks.task import TaskFault
from edgetl_runtime.manifest import Label, Manifest
from edgetl_runtime.placing import place

__all__ = ["shuffled_labels", "turned_masks"]

_SURE = 0.5
"""Least recall, or mIoU, of what would be right, and least gain by it."""
_GAIN = 0.15
_MOST_PHOTOS = 64

_TURNED: dict[str, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    "upside down": lambda mask: mask[::-1],
    "mirrored": lambda mask: mask[:, ::-1],
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
}


def shuffled_labels(original: MaskMetric, labels: Sequence[Label]) -> tuple[TaskFault, ...]:
    """A fault where the original takes most labels for another by a permutation: the masks' values mean others."""
    confusion = original.confusion
    known = np.flatnonzero(confusion.sum(axis=1))
    shares = confusion[known] / confusion[known].sum(axis=1, keepdims=True)
    taken = shares.argmax(axis=1)
    moved = {int(a): int(b) for a, b in zip(known, taken, strict=True) if a != b}
    right, restored = float(shares[np.arange(len(known)), known].mean()), float(shares.max(axis=1).mean())
    is_permutation = len(set(taken.tolist())) == len(taken)
    if len(moved) < 2 or not is_permutation or restored < _SURE or right > restored / 2:
        return ()
    shown = ", ".join(f"{labels[a].name!r} as {labels[b].name!r}" for a, b in list(moved.items())[:3])
    return (
        TaskFault(
            what="labels",
            relation=">=",
            limit=restored / 2,
            value=right,
            cause="the values of the masks are in another order than the labels of the model",
            evidence=f"{len(moved)} of {len(known)} labels are mostly taken for another ({shown}); of the pixels of a "
            f"label {right:.0%} are right as labelled, {restored:.0%} when the labels are put in order",
            fix="labels.txt in the order of the values, as in training",
        ),
    )


def turned_masks(original: MaskMetric, samples: Sequence[Sample], manifest: Manifest) -> tuple[TaskFault, ...]:
    """A fault where the original's masks fit the truth much better when that is turned over."""
    n, spec = len(manifest.labels), manifest.preprocess
    matrices = {name: np.zeros((n, n), np.int64) for name in ("as it is", *_TURNED)}
    for index, sample in enumerate(samples[: min(original.kept, _MOST_PHOTOS)]):
        truth, found = truth_of(sample), original.mask(index)
        for name, matrix in matrices.items():
            turned = _TURNED[name](truth) if name in _TURNED else truth
            matrix += confusion_of(in_frame(turned, place((truth.shape[1], truth.shape[0]), spec)), found, n)
    fits = {name: float(mean_iou(counts_of(matrix))) for name, matrix in matrices.items()}
    best = max(_TURNED, key=lambda name: fits[name])
    as_it_is = fits["as it is"]
    if fits[best] < max(_SURE, as_it_is + _GAIN):
        return ()
    return (
        TaskFault(
            what="masks",
            relation=">=",
            limit=fits[best],
            value=as_it_is,
            cause=f"the masks are {best}",
            evidence=f"mIoU of the original is {as_it_is:.0%} as they are, {fits[best]:.0%} when they are turned back",
            fix="save masks as their photos are seen, upright",
        ),
    )
