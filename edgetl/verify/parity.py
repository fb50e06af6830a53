"""Parity: the same inputs through the original and an exported model. How far apart, and do they decide alike?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl_runtime.comparison import sqnr_db

__all__ = ["SQNR_LIMIT_DB", "Parity", "compare"]

SQNR_LIMIT_DB = 200.0
"""SQNR is clipped to plus and minus this, so that it is always a number that JSON can hold and a gate can compare.

+200 dB stands for identical outputs (float32 arithmetic in another order gives 100 to 140 dB), -200 dB for outputs
that are not finite.
"""


@dataclass(frozen=True)
class Parity:
    """How one variant's logits compare with the reference's, over ``n`` images.

    ``top1_agreement`` is the share of images with the same top-1 label; an image whose logits are not finite counts
    as a disagreement. ``sqnr_db`` is over all logits of all images, clipped to `SQNR_LIMIT_DB`. ``max_abs`` is the
    largest difference of a logit, ``cosine`` the mean over images of the cosine between the two rows of logits;
    both are ``None`` when a logit is not finite. ``non_finite`` counts the images with such logits.
    """

    n: int
    top1_agreement: float
    sqnr_db: float
    max_abs: float | None
    cosine: float | None
    non_finite: int = 0


def compare(reference: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> Parity:
    """Compare two (n, classes) float32 arrays of logits, n at least 1, same shape.

    Raises `ValueError` when the shapes differ or there is nothing to compare: a caller's mistake, not a user's.
    """
    if reference.ndim != 2 or reference.shape != outputs.shape or reference.size == 0:
        raise ValueError(f"cannot compare logits of shapes {reference.shape} and {outputs.shape}")
    finite = np.isfinite(reference).all(axis=1) & np.isfinite(outputs).all(axis=1)
    same = (reference.argmax(axis=1) == outputs.argmax(axis=1)) & finite
    n, non_finite = len(reference), int(np.count_nonzero(~finite))
    agreement = float(same.mean())
    if non_finite:
        return Parity(n, agreement, -SQNR_LIMIT_DB, None, None, non_finite)
    if np.array_equal(reference, outputs):
        # Said here, because the ratio has no value when both are zero.
        return Parity(n, agreement, SQNR_LIMIT_DB, 0.0, 1.0)
    return Parity(
        n=n,
        top1_agreement=agreement,
        sqnr_db=float(np.clip(sqnr_db(reference, outputs), -SQNR_LIMIT_DB, SQNR_LIMIT_DB)),
        max_abs=float(np.abs(reference.astype(np.float64) - outputs).max()),
        cosine=_mean_cosine(reference.astype(np.float64), outputs.astype(np.float64)),
    )


def _mean_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Mean over rows; a row of zeros points nowhere, so its cosine with anything counts as 0."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())
