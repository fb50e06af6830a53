"""How far masks and the truth overlap: confusion matrices, and the intersection over union of each label.

The mean over labels (mIoU) is over those that the truth has: a label that no photo shows says nothing.
M. Everingham et al., "The Pascal Visual Object Classes (VOC) challenge", IJCV 88 (2010) 303-338, section 4.4.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgetl.stats import holm, is_significant

__all__ = ["Counts", "confusion_of", "counts_of", "iou_draws", "ious", "mean_iou", "mean_of_known", "worst_label"]

Counts: TypeAlias = "npt.NDArray[Any]"
"""(..., 3, labels): pixels that are a label in both, in the truth, and in what the model says. The sums of several
photos are the counts of all of them together."""
Shares: TypeAlias = "npt.NDArray[np.float64]"

_PIXELS_AT_ONCE = 2**20
_VALUES = 256
_RESAMPLES = 500


def confusion_of(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], labels: int) -> npt.NDArray[np.int64]:
    """Pixels by true label and by the label that was found, (labels, labels).

    Args:
        truth: (H, W). A value that is no label does not count.
        found: Likewise.
        labels: How many there are.
    """
    pairs = np.zeros(_VALUES * _VALUES, np.int64)
    true, said = truth.reshape(-1), found.reshape(-1)
    for start in range(0, true.size, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        pairs += np.bincount(true[part].astype(np.uint16) * np.uint16(_VALUES) + said[part], minlength=len(pairs))
    return pairs.reshape(_VALUES, _VALUES)[:labels, :labels].copy()


def counts_of(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(3, labels): `Counts` of a confusion matrix."""
    return np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])


def ious(counts: Counts) -> Shares:
    """(..., labels): intersection over union, 0..1; NaN for a label that the truth does not have."""
    both, truth, found = (np.asarray(counts[..., row, :], np.float64) for row in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Shares = np.where(truth > 0, both / (truth + found - both), np.nan)
    return shares


def mean_iou(counts: Counts) -> Shares:
    """(...,): the mean over the labels that the truth has; 0 where it has none."""
    return mean_of_known(ious(counts))


def mean_of_known(shares: Shares) -> Shares:
    """(...,): the mean of those of (..., labels) that are not NaN; 0 where all are."""
    known = ~np.isnan(shares)
    means: Shares = np.where(known, shares, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return means


def iou_draws(counts: Counts, *, seed: int = 0) -> Shares:
    """(draws, labels): the IoU of each label over as many photos, drawn with replacement, for a bootstrap.

    Args:
        counts: Of every photo, (n, 3, labels).
        seed: The same seed draws the same photos, so that draws of two models are pairs.
    """
    n, rows, labels = counts.shape
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES)
    sums = drawn.astype(np.float64) @ counts.reshape(n, -1).astype(np.float64)
    return ious(sums.reshape(-1, rows, labels))


def worst_label(original: Counts, variant: Counts, changes: Shares) -> tuple[int | None, float]:
    """The label whose IoU fell most among those where that is more than chance, and by how much (below 0).

    Args:
        original: Of all photos together, (3, labels).
        variant: Likewise.
        changes: Draws of the variant's IoU minus draws of the original's, (draws, labels).

    Returns:
        (None, 0.0) where no label lost significantly: of a hundred labels some seem to lose by chance, so the share
        of draws without a loss is corrected for their number (Holm 1979).
    """
    change = ious(variant) - ious(original)
    known = np.flatnonzero(~np.isnan(change)).tolist()
    # A draw without the label says nothing of it.
    p_values = [
        (1 + int(np.count_nonzero(draws >= 0.0))) / (1 + int(np.count_nonzero(~np.isnan(draws))))
        for draws in changes.T[known]
    ]
    lost = [index for index, p in zip(known, holm(p_values), strict=True) if is_significant(p) and change[index] < 0.0]
    worst = min(lost, key=lambda index: change[index], default=None)
    return worst, 0.0 if worst is None else float(change[worst])
