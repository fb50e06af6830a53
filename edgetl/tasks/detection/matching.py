"""Which of a model's boxes are right, photo by photo, by the rules of COCO's evaluation.

T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV 2014, and https://cocodataset.org/#detection-eval: a
box is right when it overlaps an object of its label that no better box has taken. Objects that do not count - of other
sizes than are judged, crowds, and those called difficult - neither miss nor invent anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl_runtime.tasks.boxes import Found

__all__ = ["AREAS", "CROWD", "DIFFICULT", "OVERLAPS", "Matched", "box_overlaps", "match_photo"]

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which a box is right; the mean over them is what mAP@[.5:.95] says."""
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Square pixels of the photo, by name."""
CROWD, DIFFICULT = 1, 2
"""Flags of a target: many objects in one box (COCO), an object that need not be found (VOC)."""
MOST = 100
"""Boxes of one label in one photo that are judged."""

Bits = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Matched:
    """The boxes of one photo, those of each label by score.

    ``labels`` and ``scores`` are (n,); ``right`` (n, areas, overlaps) is 1 where a box is right, 0 where it is wrong,
    -1 where it does not count. ``objects`` (labels, areas) counts the objects that do.
    """

    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    right: Bits
    objects: npt.NDArray[np.int64]


def match_photo(found: Found, target: npt.NDArray[np.float64], labels: int) -> Matched:
    """Judge what was found in one photo.

    Args:
        found: The best first, in pixels of the photo.
        target: (n, 6): left, top, right, bottom, label, flag (0, `CROWD` or `DIFFICULT`).
        labels: How many there are.
    """
    kinds, scores, right = [], [], []
    objects = np.zeros((labels, len(AREAS)), np.int64)
    for label in range(labels):
        boxes = found.boxes[found.labels == label][:MOST].astype(np.float64)
        truth = target[target[:, 4] == label]
        ignored = _ignored(truth)
        objects[label] = (~ignored).sum(axis=1)
        kinds.append(np.full(len(boxes), label, np.int64))
        scores.append(found.scores[found.labels == label][:MOST].astype(np.float64))
        right.append(_matched(boxes, truth, ignored))
    return Matched(np.concatenate(kinds), np.concatenate(scores), np.concatenate(right), objects)


def box_overlaps(boxes: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union (n, m); with a crowd, over the box alone, for it may hold one object of many."""
    low = np.maximum(boxes[:, np.newaxis, :2], truth[:, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:4], truth[:, 2:4])
    common = np.maximum(high - low, 0.0).prod(axis=2)
    own = _areas(boxes)[:, np.newaxis]
    whole = np.where(truth[:, 5] == CROWD, own, own + _areas(truth) - common)
    shares: npt.NDArray[np.float64] = common / np.maximum(whole, np.finfo(np.float64).tiny)
    return shares


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _outside(areas: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which areas (n,) are of other sizes: (sizes, n)."""
    low, high = np.array(list(AREAS.values())).T[:, :, np.newaxis]
    outside: npt.NDArray[np.bool_] = (areas < low) | (areas > high)
    return outside


def _ignored(truth: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which objects do not count, (areas, n)."""
    return _outside(_areas(truth)) | (truth[:, 5] > 0)


def _matched(boxes: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], ignored: npt.NDArray[np.bool_]) -> Bits:
    """Right, wrong or ignored, (n, areas, overlaps), of boxes of one label, the best first."""
    n, sizes, levels = len(boxes), len(AREAS), len(OVERLAPS)
    outside = _outside(_areas(boxes)).T[:, :, np.newaxis]
    right = np.where(np.broadcast_to(outside, (n, sizes, levels)), np.int8(-1), np.int8(0))
    if not len(truth):
        return right
    over = box_overlaps(boxes, truth)
    shared = truth[:, 5] > 0  # may be found by several boxes
    free = np.ones((sizes, levels, len(truth)), np.bool_)
    least = np.minimum(OVERLAPS, 1 - 1e-10)[:, np.newaxis]
    for row in np.flatnonzero(over.max(axis=1) >= least.min()):
        able = (over[row] >= least) & free
        counted, other = able & ~ignored[:, np.newaxis], able & ignored[:, np.newaxis]
        column = np.where(counted.any(axis=2), _last_best(over[row], counted), _last_best(over[row], other))
        taken = able.any(axis=2)
        right[row][taken] = np.where(counted.any(axis=2), 1, -1)[taken]
        size, level = np.nonzero(taken & ~shared[column])
        free[size, level, column[size, level]] = False
    return right


def _last_best(over: npt.NDArray[np.float64], able: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """The object that is overlapped most, of equal ones the last, as COCO's own code has it."""
    values = np.where(able, over, -1.0)[..., ::-1]
    places: npt.NDArray[np.intp] = able.shape[-1] - 1 - values.argmax(axis=-1)
    return places
