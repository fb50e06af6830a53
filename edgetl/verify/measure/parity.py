"""Parity: the same inputs through the original and an exported model. How far apart, and do they decide alike?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from edgetl.verify.measure.accuracy import pack_bits
from edgetl.verify.report import SQNR_LIMIT_DB, FeatureParity, Parity

__all__ = ["FeatureSums", "compare"]


_ROWS = 4096


def compare(reference: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> Parity:
    """Compare two (n, classes) float32 arrays of logits, n at least 1, same shape.

    SQNR is 10 log10 of the sum of the reference's squares over that of the differences' (as in
    `edgetl_runtime.comparison`), summed up in float64 over a few thousand images at a time.
    Raises `ValueError` when the shapes differ or there is nothing to compare: a caller's mistake, not a user's.
    """
    if reference.ndim != 2 or reference.shape != outputs.shape or reference.size == 0:
        raise ValueError(f"cannot compare logits of shapes {reference.shape} and {outputs.shape}")
    parts = [
        _Part.of(reference[start : start + _ROWS], outputs[start : start + _ROWS])
        for start in range(0, len(reference), _ROWS)
    ]
    same = np.concatenate([part.same for part in parts])
    found = _together(parts)
    return Parity(
        n=found.n,
        top1_agreement=float(same.mean()),
        sqnr_db=found.sqnr_db,
        max_abs=found.max_abs,
        cosine=found.cosine,
        non_finite=found.non_finite,
        agrees=pack_bits(same),
    )


@dataclass
class FeatureSums:
    """A feature of one variant beside the reference's, added up image by image: maps need not be kept."""

    name: str
    _parts: list[_Part] = field(default_factory=list)

    def add(self, reference: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> None:
        """Both (n, ...) float32 of one shape."""
        self._parts.append(_Part.of(reference.reshape(len(reference), -1), values.reshape(len(values), -1)))

    def parity(self) -> FeatureParity:
        """What was added; at least one image."""
        found = _together(self._parts)
        return FeatureParity(self.name, found.n, found.sqnr_db, found.max_abs, found.cosine, found.non_finite)


@dataclass(frozen=True)
class _Together:
    n: int
    sqnr_db: float
    max_abs: float | None
    cosine: float | None
    non_finite: int


def _together(parts: Sequence[_Part]) -> _Together:
    n, non_finite = sum(len(part.same) for part in parts), sum(part.non_finite for part in parts)
    if non_finite:
        return _Together(n, -SQNR_LIMIT_DB, None, None, non_finite)
    signal, noise = (math.fsum(getattr(part, name) for part in parts) for name in ("signal", "noise"))
    max_abs = max(part.max_abs for part in parts)
    # Equality is said first, because the ratio has no value when there is neither signal nor noise.
    equal = max_abs == 0.0
    sqnr = SQNR_LIMIT_DB if equal else _decibels(signal, noise)
    return _Together(n, sqnr, max_abs, 1.0 if equal else math.fsum(part.cosines for part in parts) / n, 0)


@dataclass(frozen=True)
class _Part:
    """Sums over some images; those of the numbers are 0 where one of the logits is not finite."""

    same: npt.NDArray[np.bool_]
    non_finite: int
    signal: float
    noise: float
    max_abs: float
    cosines: float

    @classmethod
    def of(cls, reference: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> Self:
        finite = np.isfinite(reference).all(axis=1) & np.isfinite(outputs).all(axis=1)
        same = (reference.argmax(axis=1) == outputs.argmax(axis=1)) & finite
        non_finite = int(np.count_nonzero(~finite))
        if non_finite:
            return cls(same, non_finite, 0.0, 0.0, 0.0, 0.0)
        a, b = reference.astype(np.float64), outputs.astype(np.float64)
        difference = np.abs(a - b)
        return cls(
            same, 0, float((a**2).sum()), float((difference**2).sum()), float(difference.max()), _sum_of_cosines(a, b)
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
