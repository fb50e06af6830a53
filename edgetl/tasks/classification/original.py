"""The original itself on the photos: what it takes for what, label by label, and where it is most wrong.

What an export keeps of a model is measured against the original; this is what there is to keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.tasks.classification.results import MOST_WORST, LabelScores, Original, WorstImage
from edgetl_runtime.tasks.classification import softmax

__all__ = ["confusion_of", "most_confused"]


def confusion_of(
    samples: Sequence[Sample],
    truth: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
    *,
    thumbnail: Callable[[Sample], str | None] | None = None,
) -> Original:
    """Judge finite (n, classes) `logits` for n `samples`; `truth` are (n,) indices into `labels`, the ids in order.

    `thumbnail` gives a data URI and is asked for the worst images only.
    """
    answers = logits.argmax(axis=1)
    # As a sum of logarithms, because the probability of a label may be too small for a float.
    losses = np.logaddexp.reduce(logits, axis=1, dtype=np.float64) - logits[np.arange(len(truth)), truth]
    worst = np.argsort(-losses, kind="stable")[:MOST_WORST]
    probabilities = softmax(logits[worst])
    return Original(
        loss=float(losses.mean()),
        per_label=_per_label(truth, answers, labels),
        confusion=_confusion(truth, answers, labels),
        worst=tuple(
            WorstImage(
                image=samples[index].name,
                truth=labels[truth[index]],
                answer=labels[answers[index]],
                probability=float(row[answers[index]]),
                truth_probability=float(row[truth[index]]),
                loss=float(losses[index]),
                thumbnail=None if thumbnail is None else thumbnail(samples[index]),
            )
            for index, row in zip(worst, probabilities, strict=True)
        ),
    )


def most_confused(original: Original, most: int) -> list[tuple[str, str, int]]:
    """At most `most` pairs (true label, answer, number of images) of different labels, the most frequent first."""
    pairs = [
        (label, answer, n)
        for label, answers in original.confusion.items()
        for answer, n in answers.items()
        if answer != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def _per_label(
    truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], labels: Sequence[str]
) -> dict[str, LabelScores]:
    have = np.bincount(truth, minlength=len(labels))
    answered = np.bincount(answers, minlength=len(labels))
    right = np.bincount(truth[truth == answers], minlength=len(labels))
    return {
        label: LabelScores(
            n=int(have[index]),
            recall=_share(right[index], have[index]),
            answered=int(answered[index]),
            precision=_share(right[index], answered[index]),
        )
        for index, label in enumerate(labels)
        if have[index] or answered[index]
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _confusion(
    truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (label, answer), n in sorted(Counter(zip(truth.tolist(), answers.tolist(), strict=True)).items()):
        counts.setdefault(labels[label], {})[labels[answer]] = n
    return counts
