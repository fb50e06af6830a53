"""Which layer of the original does a tensor of a variant belong to? Answered by values, size, kind and order.

Names do not survive conversion. The values of a sound layer do, nearly: sorted, so that no transpose matters. Those
of a damaged layer do not, and neither do those behind it, so both sides are aligned as sequences: a damaged layer
finds its place between its neighbours (S. B. Needleman and C. D. Wunsch, J. Mol. Biol. 48 (1970) 443-453). Tensors
whose values leave no doubt are matched first, in any order, for converters that swap branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl.verify.layers.operators import WEIGHTED
from edgetl_runtime.comparison import sqnr_db

__all__ = ["Fingerprint", "align", "similarity_db"]

_QUANTILES = 512
_MOST_DB = 60.0
_LEAST_DB_ACROSS_KINDS = 10.0
_SAME_KIND = 20.0
"""What the kind counts for beside the values, in dB; layers with weights are the skeleton and count for more."""
_SAME_WEIGHTED = 200.0
_BEYOND_DOUBT_DB = 20.0
_CLEAR_LEAD_DB = 6.0
_ANCHORED = 1e4


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is compared of a tensor: its kind, its number of values, and quantiles of them, (512,) float32 or fewer."""

    kind: str
    size: int
    quantiles: npt.NDArray[np.float32]

    @classmethod
    def of(cls, kind: str, values: npt.NDArray[np.float32]) -> Fingerprint:
        """The fingerprint of `values` of any shape."""
        places = np.linspace(0, values.size - 1, min(values.size, _QUANTILES)).round().astype(np.int64)
        return cls(kind, values.size, np.sort(values, axis=None)[places])


def align(originals: Sequence[Fingerprint], converted: Sequence[Fingerprint]) -> dict[int, int]:
    """Index of the original for every index of `converted` that has one; both in running order, each used once."""
    scores = np.array([[_score(original, other) for other in converted] for original in originals], np.float64)
    if not scores.size:
        return {}
    anchors = _anchors(scores)
    for index, original in anchors.items():
        scores[original, :] = scores[:, index] = -np.inf
        scores[original, index] = _ANCHORED
    return {**_in_order(scores), **anchors}


def similarity_db(
    originals: Sequence[Fingerprint], converted: Sequence[Fingerprint], pairs: Mapping[int, int]
) -> float:
    """How alike all `pairs` of `align` are, in dB, added up."""
    return sum(_alike_db(originals[original], converted[index]) for index, original in pairs.items())


def _alike_db(original: Fingerprint, other: Fingerprint) -> float:
    return float(np.clip(sqnr_db(original.quantiles, other.quantiles), 0.0, _MOST_DB))


def _score(original: Fingerprint, other: Fingerprint) -> float:
    """How well two tensors match, in dB and bonuses; minus infinity when they cannot be the same layer."""
    if original.size != other.size or (original.kind == WEIGHTED) != (other.kind == WEIGHTED):
        return -np.inf
    alike = _alike_db(original, other)
    if original.kind == other.kind:
        return alike + (_SAME_WEIGHTED if original.kind == WEIGHTED else _SAME_KIND)
    return alike if alike >= _LEAST_DB_ACROSS_KINDS else -np.inf


def _anchors(scores: npt.NDArray[np.float64]) -> dict[int, int]:
    """Of (originals, converted) scores, the pairs of one kind that fit well and each other clearly best."""
    found: dict[int, int] = {}
    for index in range(scores.shape[1]):
        original = int(scores[:, index].argmax())
        score = scores[original, index]
        values_db = score - (_SAME_WEIGHTED if score >= _SAME_WEIGHTED else _SAME_KIND)
        rivals = [*np.delete(scores[:, index], original), *np.delete(scores[original], index)]
        if values_db >= _BEYOND_DOUBT_DB and score >= max(rivals, default=-np.inf) + _CLEAR_LEAD_DB:
            found[index] = original
    return found


def _in_order(scores: npt.NDArray[np.float64]) -> dict[int, int]:
    """Of (originals, converted) scores, the matches in ascending order with the largest sum."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1))
    for row in range(rows):
        for column in range(columns):
            best[row + 1, column + 1] = max(
                best[row, column] + scores[row, column], best[row, column + 1], best[row + 1, column]
            )
    found: dict[int, int] = {}
    row, column = rows, columns
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            found[column] = row
    return found
