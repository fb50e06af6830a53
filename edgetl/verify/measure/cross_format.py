"""Cross-format parity: one precision in two formats. Written from the same parameters, do they decide alike?"""

from __future__ import annotations

from collections.abc import Sequence

from edgetl.verify.report import CrossFormatParity

__all__ = ["formats_in_words", "is_compared"]

_PRECISION = "int8"
"""Floats agree with the original anyway; other integers are not written for every format."""


def is_compared(variant_id: str) -> bool:
    """Whether a variant is held against those of the same precision in other formats."""
    return variant_id.partition(".")[2] == _PRECISION


def formats_in_words(twins: Sequence[CrossFormatParity]) -> list[str]:
    """One line when all of them always give the same label, else a line for every two; none when there are none."""
    if not twins:
        return []
    alike = "give the same label" if twins[0].parity.top1_agreement is not None else "decide alike"
    names = list(dict.fromkeys(name for pair in twins for name in pair.variants))
    n = twins[0].parity.n
    if all(pair.parity.decided_alike == 1.0 for pair in twins):
        return [f"{', '.join(names[:-1])} and {names[-1]} {alike} on each of {n} images"]
    return [f"{' and '.join(pair.variants)} {alike} on {pair.parity.decided_alike:.1%} of {n} images" for pair in twins]
