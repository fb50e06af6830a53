"""From a detector's outputs to boxes: scores, decoding, and suppression of boxes that others cover; numpy only.

The order is the same on every machine: the best score first, ties by place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CANDIDATES", "LARGEST_LOG", "NOTHING", "Found", "candidates", "decoded", "overlaps", "suppressed"]

CANDIDATES = 400
"""So many of the best are decoded and compared with each other."""
_BLOCK = 64
"""Boxes whose overlaps with the rest are computed at once: most of the rest is then gone."""
_LEAST_SCORE, _MOST_SCORE = 1e-6, 1 - 1e-7
LARGEST_LOG = 4.0
"""A side is at most e to this times its anchor's, however far off the delta is."""


class Found(NamedTuple):
    """Boxes (n, 4) float32 - left, top, right, bottom -, scores (n,) float32, labels (n,) int64, the best first."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def at(self, rows: npt.NDArray[np.intp]) -> Found:
        """Those of these rows."""
        return Found(self.boxes[rows], self.scores[rows], self.labels[rows])


NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def candidates(
    logits: npt.NDArray[np.float32], score: float, classes: Sequence[int] | None = None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The best pairs of an anchor and a label, at most `CANDIDATES`.

    Args:
        logits: (A, labels + 1), the background first.
        score: Least score: the label's softmax probability.
        classes: Labels by index, None for all.

    Returns:
        Anchors, labels and scores, (n,) each, the best first; ties by anchor, then label.
    """
    share = min(max(score, _LEAST_SCORE), _MOST_SCORE)
    # Who has this share at least has as much more than the background.
    ahead = logits[:, 1:] >= logits[:, :1] + np.float32(math.log(share / (1 - share)) - 1e-3)
    if classes is not None:
        ahead[:, [label for label in range(ahead.shape[1]) if label not in set(classes)]] = False
    anchors, labels, scores = (_scores_of_few if np.count_nonzero(ahead) < ahead.size // 8 else _scores)(
        logits, ahead, share
    )
    if len(scores) > CANDIDATES:
        kept = _best(scores, CANDIDATES)
        anchors, labels, scores = anchors[kept], labels[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")
    return anchors[order], labels[order].astype(np.int64), scores[order]


def _scores_of_few(
    logits: npt.NDArray[np.float32], ahead: npt.NDArray[np.bool_], share: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Anchors, labels and scores of the places `ahead` that reach `share`, in order; only these are worked out."""
    anchors, labels = np.divmod(np.flatnonzero(ahead), ahead.shape[1])
    first = np.concatenate((anchors[:1] >= 0, anchors[1:] != anchors[:-1]))  # of each anchor
    rows, row = logits[anchors[first]], np.cumsum(first) - 1
    largest = rows.max(axis=1)
    total = np.exp(rows - largest[:, np.newaxis]).sum(axis=1)
    scores = np.exp(logits[anchors, labels + 1] - largest[row]) / total[row]
    reached = scores >= np.float32(share)
    return anchors[reached], labels[reached], scores[reached]


def _scores(
    logits: npt.NDArray[np.float32], ahead: npt.NDArray[np.bool_], share: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The same where it is quicker to work out all."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers[:, 1:] / powers.sum(axis=1, keepdims=True)
    ahead &= shares >= np.float32(share)
    anchors, labels = np.divmod(np.flatnonzero(ahead), ahead.shape[1])
    return anchors, labels, shares[anchors, labels]


def decoded(
    deltas: npt.NDArray[np.float32], anchors: npt.NDArray[np.float32], variances: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Boxes (n, 4) as shares of the image's sides, of deltas (n, 4) and anchors (n, 4); not cut at the edges.

    The box coding of S. Ren et al., "Faster R-CNN", 2015, section 3.1.2, with SSD's variances.
    """
    moved = deltas * np.asarray(variances, np.float32)
    centres = anchors[:, :2] + moved[:, :2] * anchors[:, 2:]
    halves = anchors[:, 2:] * np.exp(np.minimum(moved[:, 2:], np.float32(LARGEST_LOG))) / 2
    boxes: npt.NDArray[np.float32] = np.concatenate((centres - halves, centres + halves), axis=1)
    return boxes


def suppressed(found: Found, iou: float, most: int) -> Found:
    """Without the boxes that overlap a better one of the same label by more than `iou`; at most `most`.

    Greedy: a box that is itself suppressed suppresses none. `found` is sorted, the best first.
    """
    kept: list[int] = []
    left = np.arange(len(found.scores))
    while len(left) and len(kept) < most:
        here, rest = found.at(left[:_BLOCK]), found.at(left)
        covered = overlaps(here.boxes, rest.boxes) > iou
        covered &= here.labels[:, np.newaxis] == rest.labels
        free = np.ones(len(left), np.bool_)
        for row in range(len(here.scores)):
            if free[row]:
                kept.append(int(left[row]))
                free &= ~covered[row]
        left = left[_BLOCK:][free[_BLOCK:]]
    return found.at(np.array(kept[:most], np.intp))


def overlaps(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4); 0 for boxes of no area."""
    left, top, right, bottom = np.ascontiguousarray(boxes.T)[:, :, np.newaxis]
    left2, top2, right2, bottom2 = np.ascontiguousarray(others.T)[:, np.newaxis]
    wide: npt.NDArray[np.float32] = np.minimum(right, right2)
    wide -= np.maximum(left, left2)
    np.maximum(wide, 0, out=wide)
    high = np.minimum(bottom, bottom2)
    high -= np.maximum(top, top2)
    np.maximum(high, 0, out=high)
    wide *= high
    union = (right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2)
    union -= wide
    np.maximum(union, np.finfo(np.float32).tiny, out=union)
    wide /= union
    return wide


def _best(scores: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.intp]:
    """Places of the `n` largest, in their order; of equal ones at the limit the first. What argpartition alone leaves
    to the machine."""
    limit = scores[np.argpartition(scores, len(scores) - n)[len(scores) - n]]
    above, equal = np.flatnonzero(scores > limit), np.flatnonzero(scores == limit)
    return np.sort(np.concatenate((above, equal[: n - len(above)])))
