"""Accuracy: how often the labels are right, with the interval that the number of images allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgetl.stats import bootstrap_delta, holm, is_significant, mcnemar_worse, pack_shares
from edgetl.tasks.classification.results import Accuracy, ClassAccuracy

__all__ = ["changed", "score", "wilson_interval", "worst_class_of"]

_ROWS = 4096
"""Images scored at a time, so that memory does not grow with their number."""
_Z_95 = 1.959963984540054  # the 0.975 quantile of the standard normal distribution


def score(
    logits: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    *,
    labels: Sequence[str],
    original: npt.NDArray[np.float32] | None = None,
) -> Accuracy:
    """Score (n, classes) logits against (n,) label indices, n at least 1; `labels` are ids in the order of the logits.

    `original` are the original model's logits for the same images. An image whose logits are not finite counts as
    wrong. Between equal logits the first label wins, as in argmax.
    """
    ranks = _ranks(logits, truth)
    right = ranks == 0
    accuracy = Accuracy(
        n=len(truth),
        top1=float(right.mean()),
        top5=float((ranks < min(5, logits.shape[1])).mean()),
        delta=None,
        ci95=wilson_interval(int(np.count_nonzero(right)), len(truth)),
        per_class={labels[index]: _class_accuracy(ranks[truth == index]) for index in np.unique(truth)},
        right=pack_shares(right),
    )
    return accuracy if original is None else _beside(accuracy, right, _ranks(original, truth) == 0, truth, labels)


def worst_class_of(
    right: npt.NDArray[np.bool_], was_right: npt.NDArray[np.bool_], truth: npt.NDArray[np.int64]
) -> tuple[int | None, float]:
    """The label index that lost most among those that lost significantly, and its delta; (None, 0.0) without one.

    All arrays are (n,). A label's loss is significant when McNemar's exact one-sided p value is, after Holm's
    correction for as many tests as there are labels with images: of a hundred labels, five look damaged by chance.
    """
    present = np.unique(truth)
    p_values = [mcnemar_worse(*changed(right[truth == index], was_right[truth == index])) for index in present.tolist()]
    deltas = {
        index: float(right[truth == index].mean() - was_right[truth == index].mean())
        for index, p_value in zip(present.tolist(), holm(p_values), strict=True)
        if is_significant(p_value)
    }
    worst = min(deltas, key=lambda index: deltas[index], default=None)
    return worst, 0.0 if worst is None else deltas[worst]


def changed(right: npt.NDArray[np.bool_], was_right: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """How many images are broken (right to wrong) and how many are repaired."""
    return int(np.count_nonzero(was_right & ~right)), int(np.count_nonzero(right & ~was_right))


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (low, high).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.
    Unlike the plain normal interval it keeps within 0..1 and makes sense near both ends and for small n.
    """
    share, z2 = successes / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _beside(
    accuracy: Accuracy,
    right: npt.NDArray[np.bool_],
    was_right: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> Accuracy:
    """`accuracy` with what the original says of the same images."""
    broken, repaired = changed(right, was_right)
    worst, class_delta = worst_class_of(right, was_right, truth)
    return replace(
        accuracy,
        delta=float(right.mean() - was_right.mean()),
        delta_ci95=bootstrap_delta(broken, repaired, len(right)),
        broken=broken,
        repaired=repaired,
        class_delta=class_delta,
        worst_class=None if worst is None else labels[worst],
    )


def _class_accuracy(ranks: npt.NDArray[np.int64]) -> ClassAccuracy:
    return ClassAccuracy(n=len(ranks), top1=float((ranks == 0).mean()))


def _ranks(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many labels come before the true one, (n,) int64; the number of labels where logits are not finite."""
    classes = logits.shape[1]
    ranks = np.empty(len(truth), np.int64)
    for start in range(0, len(truth), _ROWS):
        rows, own_label = logits[start : start + _ROWS], truth[start : start + _ROWS]
        own = rows[np.arange(len(rows)), own_label][:, None]
        earlier = np.arange(classes)[None, :] < own_label[:, None]
        before = (rows > own) | ((rows == own) & earlier)
        finite = np.isfinite(rows).all(axis=1)
        ranks[start : start + _ROWS] = np.where(finite, before.sum(axis=1), classes)
    return ranks
