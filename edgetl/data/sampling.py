"""Samples drawn from others: a few of each label, a share of each, a part that is held out; the same for a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from edgetl_runtime.errors import DataError, UsageError

__all__ = ["Labelled", "hold_out", "pick", "share_of"]


class Labelled(Protocol):
    """What has the index of a label: `edgetl.data.dataset.Sample`."""

    @property
    def label(self) -> int:
        """The index."""


S = TypeVar("S", bound=Labelled)


def pick(samples: Sequence[S], n: int, seed: int = 0) -> tuple[S, ...]:
    """`n` of the samples (all when there are fewer), labels as even as can be, in their order; the same for a seed."""
    if n < 1:
        raise UsageError(f"cannot pick {n} samples", fix="a positive number")
    met: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for place, index in enumerate(np.random.default_rng(seed).permutation(len(samples)).tolist()):
        label = samples[index].label
        turns.append((met[label], place, index))  # the first of every label, then the second of every label ...
        met[label] += 1
    return tuple(samples[index] for index in sorted(index for _, _, index in sorted(turns)[:n]))


def share_of(samples: Sequence[S], fraction: float, seed: int = 0) -> tuple[S, ...]:
    """`fraction` of each label, at least one sample, in their order; for one seed, a smaller share is in a larger."""
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"cannot take {fraction} of the samples", fix="a fraction above 0, at most 1, such as 0.1")
    counts = Counter(sample.label for sample in samples)
    drawn = _draw(samples, {label: max(1, round(fraction * n)) for label, n in counts.items()}, seed)
    return tuple(sample for index, sample in enumerate(samples) if index in drawn)


def hold_out(samples: tuple[S, ...], fraction: float, seed: int) -> tuple[tuple[S, ...], tuple[S, ...]]:
    """Two parts, in the order of the samples; `fraction` of each label, at least one, not all, is in the second.

    Raises `DataError` where no label has two samples: then nothing would be left to judge on.
    """
    counts = Counter(sample.label for sample in samples)
    if max(counts.values(), default=0) < 2:
        raise DataError(
            f"no label has two photos, so that none of the {len(samples)} can be held out to judge on",
            fix="add photos, or judge on others: --val DIR",
        )
    held = _draw(samples, {label: min(n - 1, max(1, round(fraction * n))) for label, n in counts.items()}, seed)
    return (
        tuple(s for i, s in enumerate(samples) if i not in held),
        tuple(s for i, s in enumerate(samples) if i in held),
    )


def _draw(samples: Sequence[Labelled], wanted: Mapping[int, int], seed: int) -> set[int]:
    """Indices of so many samples of each label; for one seed, fewer are among more."""
    left, drawn = dict(wanted), set()
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        if left[samples[index].label] > 0:
            left[samples[index].label] -= 1
            drawn.add(index)
    return drawn
