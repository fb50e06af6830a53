"""Cross-format parity: one precision in two formats. Written from the same parameters, do they decide alike?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from edgetl.verify.measure.parity import compare
from edgetl.verify.report import CrossFormatParity
from edgetl_runtime.manifest import Variant

__all__ = ["compare_formats", "formats_in_words"]

_PRECISION = "int8"
"""Floats agree with the original anyway; other integers are not written for every format."""


def compare_formats(
    variants: Sequence[Variant], logits: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[CrossFormatParity, ...]:
    """Every two int8 variants that gave `logits` (n, classes), by variant id."""
    alike = [variant.id for variant in variants if variant.precision == _PRECISION and variant.id in logits]
    return tuple(
        CrossFormatParity((one, other), compare(logits[one], logits[other])) for one, other in combinations(alike, 2)
    )


def formats_in_words(twins: Sequence[CrossFormatParity]) -> list[str]:
    """One line when all of them always give the same label, else a line for every two; none when there are none."""
    if not twins:
        return []
    names = list(dict.fromkeys(name for pair in twins for name in pair.variants))
    n = twins[0].parity.n
    if all(pair.parity.top1_agreement == 1.0 for pair in twins):
        return [f"{', '.join(names[:-1])} and {names[-1]} give the same label on each of {n} images"]
    return [
        f"{' and '.join(pair.variants)} give the same label on {pair.parity.top1_agreement:.1%} of {n} images"
        for pair in twins
    ]
