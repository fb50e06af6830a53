"""Are the labels in the order of the logits? The original's decisions held against the photos' labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgetl.tasks.task import TaskFault
from edgetl_runtime.manifest import Label

__all__ = ["shuffled_labels"]

_LEAST_PER_LABEL = 5
_MOSTLY = 0.5


def shuffled_labels(
    reference: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], labels: Sequence[Label]
) -> tuple[TaskFault, ...]:
    """Whether the original mostly takes one label for another, by a permutation: then the labels are shuffled.

    `reference` is (n, classes), `truth` (n,) label indices; labels of fewer than 5 photos say nothing. The check
    ``labels`` has the share of those photos that got their own label, at least half of what the permutation gives.
    """
    decided = reference.argmax(axis=1)
    taken: dict[int, int] = {}
    for label in np.unique(truth):
        own = decided[truth == label]
        counts = np.bincount(own, minlength=reference.shape[1])
        if len(own) >= _LEAST_PER_LABEL and counts.max() > _MOSTLY * len(own):
            taken[int(label)] = int(counts.argmax())
    moved = {label: other for label, other in taken.items() if label != other}
    # Two labels that one takes for the other, and everything else in its place, can be a hard pair of labels.
    if len(moved) < 2 or len(set(taken.values())) < len(taken):
        return ()
    known = np.isin(truth, list(taken))
    right = float((decided[known] == truth[known]).mean())
    restored = float((decided[known] == np.array([taken[int(label)] for label in truth[known]])).mean())
    if right > restored / 2:
        return ()
    shown = ", ".join(f"{labels[a].name!r} as {labels[b].name!r}" for a, b in list(moved.items())[:3])
    return (
        TaskFault(
            what="labels",
            relation=">=",
            limit=restored / 2,
            value=right,
            cause="the labels are shuffled: the original takes them for each other by a permutation",
            evidence=f"{len(moved)} of {len(taken)} labels are mostly taken for another ({shown}); of "
            f"{int(known.sum())} photos {right:.0%} are right as labelled, {restored:.0%} when the labels are put in "
            "order",
            fix="give the labels in the order of the logits: edgetl export --labels FILE",
        ),
    )
