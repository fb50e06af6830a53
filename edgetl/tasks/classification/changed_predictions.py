"""Changed predictions: which decisions of the original a variant changes, and which labels lose by that.

Accuracy alone hides it: five images that a variant breaks and five that it repairs leave top-1 where it was, and a
label with twenty images can be lost while the mean over thousands stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.stats import mcnemar
from edgetl.tasks.classification.results import MOST_CHANGED, ChangedPrediction, ChangedPredictions, LabelChanges
from edgetl_runtime.tasks.classification import softmax

__all__ = ["changed_predictions", "worst_labels"]


_Logits = npt.NDArray[np.float32]
_AT_ONCE = 4096  # rows of logits, in float64


def changed_predictions(
    samples: Sequence[Sample],
    truth: npt.NDArray[np.int64],
    reference: _Logits,
    variant: _Logits,
    labels: Sequence[str],
    *,
    thumbnail: Callable[[Sample], str | None] | None = None,
) -> ChangedPredictions:
    """Compare the decisions of two (n, classes) float32 arrays of logits on the same n `samples`.

    `truth` are (n,) indices into `labels`, which are ids in the order of the logits. `thumbnail` gives a data URI and
    is asked for the flips that are kept only. The logits of `reference` are finite; a row of `variant` that is not
    decides nothing, which is a flip and wrong. Raises `ValueError` when lengths differ.
    """
    if reference.shape != variant.shape or not len(reference) == len(truth) == len(samples):
        raise ValueError(f"{reference.shape} and {variant.shape} logits, {len(truth)} labels, {len(samples)} samples")
    before = reference.argmax(axis=1)
    after = np.where(np.isfinite(variant).all(axis=1), variant.argmax(axis=1), -1)
    right, still_right = before == truth, after == truth
    flipped = np.flatnonzero(before != after)
    margins = _margins(reference)
    shown = flipped[np.argsort(-margins[flipped], kind="stable")][:MOST_CHANGED]
    return ChangedPredictions(
        flips=tuple(
            ChangedPrediction(
                image=samples[index].name,
                truth=labels[truth[index]],
                original=labels[before[index]],
                variant="" if after[index] < 0 else labels[after[index]],
                original_margin=float(margins[index]),
                thumbnail=None if thumbnail is None else thumbnail(samples[index]),
            )
            for index in shown
        ),
        flipped=len(flipped),
        broken=int(np.count_nonzero(right & ~still_right)),
        repaired=int(np.count_nonzero(~right & still_right)),
        per_class={
            labels[index]: _label_changes(right[truth == index], still_right[truth == index])
            for index in np.unique(truth)
        },
    )


def worst_labels(per_class: Mapping[str, LabelChanges], most: int) -> list[tuple[str, LabelChanges]]:
    """At most `most` labels that a variant changed, those that lost most images first."""

    def lost(item: tuple[str, LabelChanges]) -> float:
        return item[1].n * (item[1].variant - item[1].original)

    changed = [item for item in per_class.items() if item[1].variant != item[1].original]
    return sorted(changed, key=lost)[:most]


def _label_changes(right: npt.NDArray[np.bool_], still_right: npt.NDArray[np.bool_]) -> LabelChanges:
    broken, repaired = int(np.count_nonzero(right & ~still_right)), int(np.count_nonzero(~right & still_right))
    return LabelChanges(len(right), float(right.mean()), float(still_right.mean()), mcnemar(broken, repaired))


def _margins(logits: _Logits) -> npt.NDArray[np.float64]:
    """Probability of the first label minus that of the second, (n,) float64; 1 where there is but one label."""
    parts = (logits[start : start + _AT_ONCE] for start in range(0, len(logits), _AT_ONCE))
    best = np.concatenate([np.sort(softmax(part), axis=1)[:, -2:] for part in parts])
    margins: npt.NDArray[np.float64] = best[:, -1] - (best[:, 0] if best.shape[1] > 1 else 0.0)
    return margins
