"""The boxes of one model for all photos, and what they are worth: a few numbers are kept of each photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.stats import bootstrap_images, pack_shares, values_interval
from edgetl.tasks.detection.matching import AREAS, Matched, match_photo
from edgetl.tasks.detection.precision import Judged, mean_of_known
from edgetl.tasks.task import Outputs, Quality
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.placing import place
from edgetl_runtime.preprocess import load_image
from edgetl_runtime.tasks.boxes import NOTHING, Found
from edgetl_runtime.tasks.detection import anchors_of, objects_in_photo

__all__ = ["LEAST_SCORE", "MOST_BOXES", "BoxMetric"]

LEAST_SCORE = 0.01
"""Boxes of a lower score are not judged: they add nothing to the precision at any recall that matters."""
MOST_BOXES = 300
_RESAMPLES, _FEWEST_RESAMPLES = 300, 100
_ROWS = 30_000
"""Boxes from which on fewer samples are drawn for the interval."""


class BoxMetric:
    """mAP and all that goes with it, of one model: a `edgetl.tasks.task.Metric`."""

    logits = None

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.decoder is not None
        self.labels = tuple(label.id for label in manifest.labels)
        self._decoder: Mapping[str, Any] = manifest.decoder
        self._anchors, self._spec = anchors_of(manifest.decoder), manifest.preprocess
        self.found: list[Found] = []
        self._photos: list[Matched] = []

    @property
    def score(self) -> float:
        """The least score of a box that a device shows."""
        return float(self._decoder["score"])

    def update(self, samples: Sequence[Sample], outputs: Outputs) -> None:
        """The boxes of the next photos, decoded as a device does. What is not finite finds nothing."""
        for row, sample in enumerate(samples):
            own = {name: np.asarray(values[row]) for name, values in outputs.items()}
            size = sample.size or load_image(sample.source).size
            found = self._objects(own, size)
            self.found.append(found.at(np.flatnonzero(found.scores >= self.score)))
            target = np.zeros((0, 6)) if sample.target is None else sample.target
            self._photos.append(match_photo(found, target, len(self.labels)))

    @cached_property
    def judged(self) -> Judged:
        """All photos so far; to be asked for when there are no more."""
        return Judged(self._photos, len(self.labels))

    @cached_property
    def precisions(self) -> npt.NDArray[np.float64]:
        """Average precision (labels, overlaps); NaN for a label without objects."""
        return self.judged.precisions()

    @cached_property
    def _drawn(self) -> npt.NDArray[np.float64]:
        """Average precision at [.5:.95] of each label for each draw of photos: (resamples, labels)."""
        rows = sum(len(photo.scores) for photo in self._photos)
        resamples = max(_FEWEST_RESAMPLES, int(_RESAMPLES * min(1.0, _ROWS / max(1, rows))))
        by_label: list[npt.NDArray[np.float64]] = []

        def statistic(counts: npt.NDArray[np.int64]) -> float:
            by_label.append(self.judged.precisions(counts=counts).mean(axis=1))
            return mean_of_known(by_label[-1])

        bootstrap_images(statistic, len(self._photos), resamples=resamples)
        return np.stack(by_label)

    def compute(self, original: BoxMetric | None = None) -> Quality:
        """mAP@[.5:.95], by label too; mAP@.5 and others as parts."""
        value, drawn = mean_of_known(self.precisions), _mean_by_row(self._drawn)
        hits, missed, invented = self.judged.found_and_not(self.score)
        parts = {"map50": mean_of_known(self.precisions[:, 0]), "map75": mean_of_known(self.precisions[:, 5])}
        parts |= {f"map_{area}": mean_of_known(self.judged.precisions(area)) for area in list(AREAS)[1:]}
        parts |= {"missed": float(missed.sum()), "invented": float(invented.sum())}
        delta, interval = None, None
        if original is not None:
            n = min(len(self._drawn), len(original._drawn))  # the same draws, as many as both have
            delta = value - mean_of_known(original.precisions)
            interval = values_interval(drawn[:n] - _mean_by_row(original._drawn)[:n])
            parts["class_map_delta"] = self._worst_label(original, n)
        return Quality(
            name="mAP",
            n=len(self._photos),
            value=_number(value),
            ci95=_numbers(values_interval(drawn)),
            per_label={
                label: float(row.mean())
                for label, row in zip(self.labels, self.precisions, strict=True)
                if not np.isnan(row).any()
            },
            parts={name: number for name, number in parts.items() if not np.isnan(number)},
            per_image=pack_shares(hits / np.maximum(1, hits + missed + invented) + (hits + missed + invented == 0)),
            delta=None if delta is None else _number(delta),
            delta_ci95=None if interval is None else _numbers(interval),
        )

    def _worst_label(self, original: BoxMetric, n: int) -> float:
        """The change of the label that lost most, among those whose loss is more than chance; 0 where none is."""
        changes = self.precisions.mean(axis=1) - original.precisions.mean(axis=1)
        drawn = self._drawn[:n] - original._drawn[:n]
        lost = [
            float(change)
            for change, values in zip(changes, drawn.T, strict=True)
            if not np.isnan(change) and values_interval(values)[1] < 0
        ]
        return min([*lost, 0.0])

    def _objects(self, outputs: Outputs, size: tuple[int, int]) -> Found:
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return NOTHING
        placed = place(size, self._spec)
        thresholds = {"score": LEAST_SCORE, "iou": self._decoder["iou"], "most": MOST_BOXES}
        return objects_in_photo(outputs, placed, self._decoder, self._anchors, **thresholds)


def _mean_by_row(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([mean_of_known(row) for row in values])


def _number(value: float) -> float:
    """0 where there is no object at all."""
    return 0.0 if np.isnan(value) else float(value)


def _numbers(values: tuple[float, float]) -> tuple[float, float]:
    return _number(values[0]), _number(values[1])
