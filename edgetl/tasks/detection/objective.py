"""What a detector's training makes small, and the mAP that chooses its epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetl.tasks.detection.losses import SsdLoss
from edgetl.tasks.detection.matching import AREAS, OVERLAPS, match_photo
from edgetl.tasks.detection.metric import LEAST_SCORE, MOST_BOXES
from edgetl.tasks.detection.precision import LabelRows, mean_of_known
from edgetl.tasks.task import Targets
from edgetl_runtime.placing import Placed
from edgetl_runtime.tasks.boxes import NOTHING
from edgetl_runtime.tasks.detection import anchors_of, objects_in_photo

__all__ = ["DetectionObjective"]

_LOSS, _BOX, _OBJECTS = 0.0, 1.0, 2.0
"""What a row is: a loss; a box - label, score, whether it is right at each overlap; objects - label, how many."""
_COLUMNS = 3 + len(OVERLAPS)


class DetectionObjective:
    """The `edgetl.tasks.task.Objective`."""

    def __init__(
        self,
        decoder: Mapping[str, Any],
        labels: int,
        crop: tuple[int, int],
        device: Any,
        *,
        smoothing: float = 0.0,
    ) -> None:
        height, width = crop
        self._decoder, self._labels = decoder, labels
        self._anchors = anchors_of(decoder)
        sides = torch.tensor([width, height, width, height], dtype=torch.float32)
        self._loss = SsdLoss(
            (torch.from_numpy(self._anchors) * sides).to(device), tuple(decoder["variances"]), smoothing
        )
        self._placed = Placed((width, height), (width, height), 0, 0, (width, height))

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """One loss (B,) for every image."""
        return self._loss(outputs, targets.values)

    def judge(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Rows of losses, boxes and objects, float64 (k, 13)."""
        losses = self._loss(outputs, targets).double().cpu().numpy()
        arrays = {name: values.float().cpu().numpy() for name, values in outputs.items()}
        rows = [np.zeros((len(losses), _COLUMNS))]
        rows[0][:, 1] = losses
        for place, target in enumerate(targets.double().cpu().numpy()):
            rows += self._of_image({name: values[place] for name, values in arrays.items()}, target)
        return torch.from_numpy(np.concatenate(rows))

    def judged(self, rows: Tensor) -> tuple[float, float]:
        """Mean loss, and mAP@[.5:.95]."""
        values = rows.double().cpu().numpy()
        losses, boxes, objects = (values[values[:, 0] == kind] for kind in (_LOSS, _BOX, _OBJECTS))
        precisions = []
        for label in range(self._labels):
            own = boxes[boxes[:, 1] == label]
            own = own[np.argsort(-own[:, 2], kind="stable")]
            right = np.repeat(own[:, np.newaxis, 3:], len(AREAS), axis=1).astype(np.int8)
            total = np.full((1, len(AREAS)), int(objects[objects[:, 1] == label, 2].sum()))
            found = LabelRows(np.zeros(len(own), np.int64), own[:, 2], right, total).precision()
            precisions.append(np.nan if found is None else found.mean())
        quality = mean_of_known(np.array(precisions))
        return float(losses[:, 1].mean()), 0.0 if np.isnan(quality) else quality

    def _of_image(self, outputs: Mapping[str, Any], target: Any) -> list[Any]:
        thresholds = {"score": LEAST_SCORE, "iou": self._decoder["iou"], "most": MOST_BOXES}
        if all(np.isfinite(values).all() for values in outputs.values()):
            found = objects_in_photo(outputs, self._placed, self._decoder, self._anchors, **thresholds)
        else:
            found = NOTHING
        matched = match_photo(found, target, self._labels)
        boxes = np.zeros((len(matched.scores), _COLUMNS))
        boxes[:, 0], boxes[:, 1], boxes[:, 2] = _BOX, matched.labels, matched.scores
        boxes[:, 3:] = matched.right[:, 0]
        objects = np.zeros((self._labels, _COLUMNS))
        objects[:, 0], objects[:, 1], objects[:, 2] = _OBJECTS, np.arange(self._labels), matched.objects[:, 0]
        return [boxes, objects]
