"""Parity: the same inputs through the original and an exported model. How far apart, and do they decide alike?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from edgetl.stats import mean_interval, pack_shares
from edgetl.tasks.task import Outputs
from edgetl.verify.report import SQNR_LIMIT_DB, FeatureParity, Parity
from edgetl_runtime.tasks import classification

__all__ = ["FeatureSums", "ParitySums", "compare"]


_ROWS = 4096

Agreement = Callable[[Outputs, Outputs], npt.NDArray[np.float64]]
"""Of the original's outputs and others the share (0..1) of each image's decisions that are the same, (n,)."""


def compare(reference: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> Parity:
    """Compare two (n, classes) float32 arrays of logits, n at least 1, same shape.

    SQNR is 10 log10 of the sum of the reference's squares over that of the differences' (as in
    `edgetl_runtime.comparison`), summed up in float64 over a few thousand images at a time.
    Raises `ValueError` when the shapes differ or there is nothing to compare: a caller's mistake, not a user's.
    """
    if reference.ndim != 2 or reference.shape != outputs.shape or reference.size == 0:
        raise ValueError(f"cannot compare logits of shapes {reference.shape} and {outputs.shape}")
    sums = ParitySums((classification.LOGITS,), classification.agreement)
    for start in range(0, len(reference), _ROWS):
        rows = slice(start, start + _ROWS)
        sums.add({classification.LOGITS: reference[rows]}, {classification.LOGITS: outputs[rows]})
    return sums.parity(of_labels=True)


class ParitySums:
    """The outputs of one model beside the original's, added up image by image: maps need not be kept."""

    def __init__(self, outputs: Sequence[str], agreement: Agreement) -> None:
        self._outputs = [FeatureSums(name) for name in outputs]
        self._agreement = agreement
        self._agreed: list[npt.NDArray[np.float64]] = []

    def add(self, original: Outputs, outputs: Outputs) -> None:
        """What both gave for the same images, (n, ...) by name."""
        self._agreed.append(self._agreement(original, outputs))
        for sums in self._outputs:
            sums.add(original[sums.name], outputs[sums.name])

    def parity(self, *, of_labels: bool) -> Parity:
        """What was added, at least one image; `of_labels`: a decision is a label, so that agreement is that of top-1.

        The numbers are those of the output that is farthest from the original's.
        """
        agreed = np.concatenate(self._agreed)
        found = [sums.parity() for sums in self._outputs]
        worst = min(found, key=lambda one: one.sqnr_db)
        agreement = float(agreed.mean())
        return Parity(
            n=worst.n,
            top1_agreement=agreement if of_labels else None,
            sqnr_db=worst.sqnr_db,
            max_abs=worst.max_abs,
            cosine=worst.cosine,
            non_finite=max(one.non_finite for one in found),
            agrees=pack_shares(agreed),
            agreement=agreement,
            agreement_ci95=None if of_labels else mean_interval(agreed),
            outputs=tuple(found) if len(found) > 1 else (),
        )


@dataclass
class FeatureSums:
    """An output of one variant beside the original's, added up image by image."""

    name: str
    _parts: list[_Part] = field(default_factory=list)

    def add(self, reference: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> None:
        """Both (n, ...) float32 of one shape."""
        self._parts.append(_Part.of(reference.reshape(len(reference), -1), values.reshape(len(values), -1)))

    def parity(self) -> FeatureParity:
        """What was added; at least one image."""
        parts = self._parts
        n, non_finite = sum(part.n for part in parts), sum(part.non_finite for part in parts)
        if non_finite:
            return FeatureParity(self.name, n, -SQNR_LIMIT_DB, None, None, non_finite)
        signal, noise = (math.fsum(getattr(part, name) for part in parts) for name in ("signal", "noise"))
        max_abs = max(part.max_abs for part in parts)
        # Equality is said first, because the ratio has no value when there is neither signal nor noise.
        equal = max_abs == 0.0
        sqnr = SQNR_LIMIT_DB if equal else _decibels(signal, noise)
        cosine = 1.0 if equal else math.fsum(part.cosines for part in parts) / n
        return FeatureParity(self.name, n, sqnr, max_abs, cosine, 0)


@dataclass(frozen=True)
class _Part:
    """Sums over some images; those of the numbers are 0 where one of the values is not finite."""

    n: int
    non_finite: int
    signal: float
    noise: float
    max_abs: float
    cosines: float

    @classmethod
    def of(cls, reference: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> Self:
        finite = np.isfinite(reference).all(axis=1) & np.isfinite(outputs).all(axis=1)
        non_finite = int(np.count_nonzero(~finite))
        if non_finite:
            return cls(len(reference), non_finite, 0.0, 0.0, 0.0, 0.0)
        a, b = reference.astype(np.float64), outputs.astype(np.float64)
        difference = np.abs(a - b)
        return cls(
            len(a), 0, float((a**2).sum()), float((difference**2).sum()), float(difference.max()), _sum_of_cosines(a, b)
        )


def _decibels(signal: float, noise: float) -> float:
    ratio = signal / noise if noise > 0 else math.inf
    # The limits of the scale, so that neither 0 nor infinity meets a logarithm.
    least = 10 ** (-SQNR_LIMIT_DB / 10)
    return 10 * math.log10(min(max(ratio, least), 1 / least))


def _sum_of_cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Over rows; a row of zeros points nowhere, so its cosine with anything counts as 0."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).sum())
