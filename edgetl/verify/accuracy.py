"""Accuracy: how often the labels are right, with the interval that the number of images allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Accuracy", "ClassAccuracy", "score", "wilson_interval"]

_Z_95 = 1.959963984540054  # the 0.975 quantile of the standard normal distribution


@dataclass(frozen=True)
class ClassAccuracy:
    """Of the ``n`` images of one label, the share ``top1`` that got it."""

    n: int
    top1: float


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over ``n`` images, as shares of 1.

    ``top5`` is top-k for k = min(5, number of labels). ``delta`` is top1 minus the reference's top1, ``None`` when
    there is no reference. ``ci95`` is the 95 % Wilson interval of top1. ``per_class`` goes by label id and leaves
    out labels without images.
    """

    n: int
    top1: float
    top5: float
    delta: float | None
    ci95: tuple[float, float]
    per_class: dict[str, ClassAccuracy] = field(default_factory=dict)


def score(
    logits: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    *,
    labels: Sequence[str],
    reference_top1: float | None = None,
) -> Accuracy:
    """Score (n, classes) logits against (n,) label indices, n at least 1; `labels` are ids in the order of the logits.

    An image whose logits are not finite counts as wrong. Between equal logits the first label wins, as in argmax.
    """
    ranks = _ranks(logits, truth)
    top1 = float((ranks == 0).mean())
    return Accuracy(
        n=len(truth),
        top1=top1,
        top5=float((ranks < min(5, logits.shape[1])).mean()),
        delta=None if reference_top1 is None else top1 - reference_top1,
        ci95=wilson_interval(int(np.count_nonzero(ranks == 0)), len(truth)),
        per_class={labels[index]: _class_accuracy(ranks[truth == index]) for index in np.unique(truth)},
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (low, high).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.
    Unlike the plain normal interval it keeps within 0..1 and makes sense near both ends and for small n.
    """
    share, z2 = successes / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _class_accuracy(ranks: npt.NDArray[np.int64]) -> ClassAccuracy:
    return ClassAccuracy(n=len(ranks), top1=float((ranks == 0).mean()))


def _ranks(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many labels come before the true one, (n,) int64; the number of labels where logits are not finite."""
    classes = logits.shape[1]
    own = logits[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(classes)[None, :] < truth[:, None]
    before = (logits > own) | ((logits == own) & earlier)
    finite = np.isfinite(logits).all(axis=1)
    ranks: npt.NDArray[np.int64] = np.where(finite, before.sum(axis=1), classes).astype(np.int64)
    return ranks
