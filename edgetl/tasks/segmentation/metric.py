"""mIoU of one model over photos, some at a time: of each photo three numbers a label are kept, not its masks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.stats import pack_shares, values_interval
from edgetl.tasks.segmentation.overlap import (
    confusion_of,
    counts_of,
    iou_draws,
    ious,
    mean_iou,
    mean_of_known,
    worst_label,
)
from edgetl.tasks.segmentation.reading import truth_of
from edgetl.tasks.task import Outputs, Quality
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.placing import Placed, place
from edgetl_runtime.tasks.segmentation import LOGITS, label_map
from edgetl_runtime.tasks.segmentations import UNSEEN

__all__ = ["MaskMetric"]

MOST_KEPT = 256
"""Photos of which the mask at the network's size is kept, packed: what two models are compared by, pixel by pixel."""


class MaskMetric:
    """mIoU and all that goes with it, of one model: a `edgetl.tasks.task.Metric`.

    A pixel counts where the truth has a label and the network saw it. Masks are judged at the size of the photo.
    """

    logits = None

    def __init__(self, labels: Sequence[str], spec: Preprocess, n: int) -> None:
        self._labels, self._spec = tuple(labels), spec
        self._counts = np.zeros((n, 3, len(labels)), np.int64)
        self._done = 0
        self._packed: list[bytes] = []
        self.confusion = np.zeros((len(labels), len(labels)), np.int64)

    def update(self, samples: Sequence[Sample], outputs: Outputs) -> None:
        """Take in the logits (n, h, w, labels) of the next photos."""
        for sample, logits in zip(samples, outputs[LOGITS], strict=True):
            truth = truth_of(sample)
            placed = place((truth.shape[1], truth.shape[0]), self._spec)
            small = _small_mask(logits, self._spec.crop)
            if len(self._packed) < MOST_KEPT:
                self._packed.append(zlib.compress(small.tobytes(), 1))
            self._judge(truth, small, placed)

    def _judge(self, truth: npt.NDArray[np.uint8], small: npt.NDArray[np.uint8], placed: Placed) -> None:
        decided = bool((small != UNSEEN).any())
        found = placed.mask(small, outside=UNSEEN)
        confusion = confusion_of(truth, found, len(self._labels))
        counts = counts_of(confusion)
        if not decided:  # every pixel is wrong, and is no label
            counts[1] = np.bincount(truth.reshape(-1), minlength=UNSEEN + 1)[: len(self._labels)]
        self.confusion += confusion
        self._counts[self._done] = counts
        self._done += 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(n, 3, labels): `edgetl.tasks.segmentation.overlap.Counts` of every photo."""
        return self._counts[: self._done]

    @property
    def kept(self) -> int:
        """Of how many of the first photos `mask` is known."""
        return len(self._packed)

    def mask(self, index: int) -> npt.NDArray[np.uint8]:
        """(height, width) of the network's input: the label of every pixel of a photo, `UNSEEN` where the logits were
        not finite."""
        return np.frombuffer(zlib.decompress(self._packed[index]), np.uint8).reshape(self._spec.crop)

    def label_ious(self) -> dict[str, float]:
        """By label id, of those that the truth has."""
        shares = ious(self.counts.sum(axis=0))
        return {label: float(share) for label, share in zip(self._labels, shares, strict=True) if not np.isnan(share)}

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that are right."""
        both, truth, _ = self.counts.sum(axis=(0, 2))
        return float(both / max(1, truth))

    def compute(self, original: MaskMetric | None = None) -> Quality:
        """mIoU, with the interval that the number of photos allows; the change is that of the same photos."""
        per_photo, together = self.counts, self.counts.sum(axis=0)
        draws = iou_draws(per_photo)
        parts = {"pixel_accuracy": self.pixel_accuracy}
        value, delta, interval = float(mean_iou(together)), None, None
        if original is not None:
            before = original.counts
            draws_before = iou_draws(before)
            delta = value - float(mean_iou(before.sum(axis=0)))
            interval = values_interval(mean_of_known(draws) - mean_of_known(draws_before))
            parts["class_iou_delta"] = worst_label(before.sum(axis=0), together, draws - draws_before)[1]
        return Quality(
            name="mIoU",
            n=len(per_photo),
            value=value,
            ci95=values_interval(mean_of_known(draws)),
            per_label=self.label_ious(),
            parts=parts,
            per_image=pack_shares(mean_iou(per_photo)),
            delta=delta,
            delta_ci95=interval,
        )


def _small_mask(logits: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Labels at the network's size, as the device has them; `UNSEEN` throughout where they are not finite."""
    if not np.isfinite(logits).all():
        return np.full(size, UNSEEN, np.uint8)
    return label_map(np.asarray(logits, np.float32), size)
