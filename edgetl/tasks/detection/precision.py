"""Average precision over photos, by COCO's definition: what of it there is by label, size and overlap.

Precision is the largest at any recall from a place on, and its mean is taken at the recalls 0, 0.01, ... 1
(https://cocodataset.org/#detection-eval). A label without an object has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgetl.tasks.detection.matching import AREAS, OVERLAPS, Matched

__all__ = ["RECALLS", "Judged", "LabelRows", "mean_of_known"]

RECALLS = np.linspace(0.0, 1.0, 101)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelRows:
    """All boxes of one label over all photos, the best first; of equal scores those of the first photo.

    ``photos`` and ``scores`` are (n,), ``right`` (n, areas, overlaps); ``objects`` is (photos, areas).
    """

    photos: npt.NDArray[np.int64]
    scores: Floats
    right: npt.NDArray[np.int8]
    objects: npt.NDArray[np.int64]

    def precision(self, area: int = 0, counts: npt.NDArray[np.int64] | None = None) -> Floats | None:
        """Precision (overlaps, recalls); None where there is no object.

        Args:
            area: Which of `AREAS`.
            counts: How often each photo counts, (photos,); once by default.
        """
        objects = self.objects[:, area] if counts is None else self.objects[:, area] * counts
        total = int(objects.sum())
        if total == 0:
            return None
        right = self.right[:, area].T
        weights = np.ones(len(self.photos)) if counts is None else counts[self.photos].astype(np.float64)
        hits = np.cumsum((right == 1) * weights, axis=1)
        wrong = np.cumsum((right == 0) * weights, axis=1)
        shares = hits / (hits + wrong + np.spacing(1))
        best = np.maximum.accumulate(shares[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros((len(OVERLAPS), len(RECALLS)))
        for level in range(len(OVERLAPS)):
            places = np.searchsorted(hits[level] / total, RECALLS, side="left")
            reached = places < best.shape[1]
            found[level, reached] = best[level, places[reached]]
        return found


class Judged:
    """Photos that were judged: numbers over all of them."""

    def __init__(self, photos: Sequence[Matched], labels: int) -> None:
        self.photos, self.labels = photos, labels

    @cached_property
    def by_label(self) -> list[LabelRows]:
        """The boxes of each label."""
        photo = np.repeat(np.arange(len(self.photos)), [len(each.scores) for each in self.photos])
        kinds = np.concatenate([each.labels for each in self.photos])
        scores = np.concatenate([each.scores for each in self.photos])
        right = np.concatenate([each.right for each in self.photos])
        objects = np.stack([each.objects for each in self.photos])
        found = []
        for label in range(self.labels):
            rows = np.flatnonzero(kinds == label)
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            found.append(LabelRows(photo[rows], scores[rows], right[rows], objects[:, label]))
        return found

    def precisions(self, area: str = "all", counts: npt.NDArray[np.int64] | None = None) -> Floats:
        """Average precision (labels, overlaps); NaN for a label without objects."""
        place = list(AREAS).index(area)
        rows = [label.precision(place, counts) for label in self.by_label]
        return np.stack([np.full(len(OVERLAPS), np.nan) if row is None else row.mean(axis=1) for row in rows])

    def mean(self, counts: npt.NDArray[np.int64] | None = None) -> float:
        """mAP@[.5:.95]; NaN where there is no object at all."""
        return mean_of_known(self.precisions(counts=counts))

    def found_and_not(self, least: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Objects found, missed and invented at an overlap of 0.5 and a score of `least`, (photos,) each."""
        hits, missed, invented = [], [], []
        for each in self.photos:
            judged = each.right[each.scores >= least, 0, 0]
            hits.append(int((judged == 1).sum()))
            invented.append(int((judged == 0).sum()))
            missed.append(int(each.objects[:, 0].sum()) - hits[-1])
        return np.array(hits, np.int64), np.array(missed, np.int64), np.array(invented, np.int64)


def mean_of_known(values: Floats) -> float:
    """The mean of those that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
