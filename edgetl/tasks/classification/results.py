"""What verification says of a classifier: the parts of report.json that only this task has."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetl.tasks.task import Quality

__all__ = [
    "MOST_CHANGED",
    "MOST_WORST",
    "Accuracy",
    "ChangedPrediction",
    "ChangedPredictions",
    "ClassAccuracy",
    "LabelChanges",
    "LabelScores",
    "Original",
    "WorstImage",
    "quality_of_accuracy",
]

MOST_CHANGED = 24
"""Flips that a report keeps of each variant; their number is kept in any case."""

MOST_WORST = 12
"""Images of the highest loss that a report keeps."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Of the ``n`` images of one label, the share ``top1`` that got it."""

    n: int
    top1: float


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over ``n`` images, as shares of 1.

    ``top5`` is top-k for k = min(5, number of labels). ``ci95`` is the 95 % Wilson interval of top1. ``per_class`` goes
    by label id and leaves out labels without images. ``right`` has a bit for each image, in order, 1 where top-1 is
    right, in hexadecimal: what a later run on the same images is paired with.

    Against the original, on the same images; ``None`` where there is none to compare with: ``delta`` is top1 minus the
    original's, ``delta_ci95`` its 95 % bootstrap interval; ``broken`` and ``repaired`` count the images that went from
    right to wrong and from wrong to right. ``class_delta`` is the delta of the label that lost most (``worst_class``)
    among those whose loss is significant (`worst_class_of`), 0 where none is.
    """

    n: int
    top1: float
    top5: float
    delta: float | None
    ci95: tuple[float, float]
    per_class: dict[str, ClassAccuracy] = field(default_factory=dict)
    delta_ci95: tuple[float, float] | None = None
    broken: int | None = None
    repaired: int | None = None
    class_delta: float | None = None
    worst_class: str | None = None
    right: str | None = None


def quality_of_accuracy(accuracy: Accuracy) -> Quality:
    """What every task has of it; `accuracy` of an older report will do."""
    return Quality(
        name="top-1",
        n=accuracy.n,
        value=accuracy.top1,
        ci95=accuracy.ci95,
        per_label={label: found.top1 for label, found in accuracy.per_class.items()},
        parts={"top5": accuracy.top5},
        per_image=accuracy.right,
        delta=accuracy.delta,
        delta_ci95=accuracy.delta_ci95,
    )


@dataclass(frozen=True)
class ChangedPrediction:
    """One image that a variant decides otherwise than the original.

    ``image`` is its name, ``truth``, ``original`` and ``variant`` are label ids; ``variant`` is empty when its logits
    are not finite and decide nothing. ``original_margin`` is how sure the original was: the softmax probability of its
    first label minus that of its second, 0 to 1. A flip of a large margin is damage, one of a small margin was a draw.
    ``thumbnail`` is a data URI, ``None`` where the report holds enough of them.
    """

    image: str
    truth: str
    original: str
    variant: str
    original_margin: float
    thumbnail: str | None = None


@dataclass(frozen=True)
class LabelChanges:
    """The ``n`` images of one label: shares that the ``original`` and the ``variant`` got right (top-1).

    ``p_value`` is of the exact McNemar test, two-sided: how often chance alone breaks and repairs this unevenly.
    """

    n: int
    original: float
    variant: float
    p_value: float


@dataclass(frozen=True)
class ChangedPredictions:
    """How the decisions of a variant differ from the original's, image by image.

    ``flipped`` decisions differ; of them ``broken`` were right and are wrong, ``repaired`` were wrong and are right,
    the others are wrong either way. ``flips`` are at most `MOST_CHANGED` of them, those of the largest margin first.
    ``per_class`` goes by label id and leaves out labels without images.
    """

    flips: tuple[ChangedPrediction, ...]
    flipped: int
    broken: int
    repaired: int
    per_class: dict[str, LabelChanges]


@dataclass(frozen=True)
class LabelScores:
    """Of the ``n`` images of one label the share ``recall`` got it; of those ``answered`` with it the share
    ``precision`` have it. ``None`` is a share of no images."""

    n: int
    recall: float | None
    answered: int
    precision: float | None


@dataclass(frozen=True)
class WorstImage:
    """An image by its name; ``truth`` and ``answer`` are label ids, with their softmax probabilities, 0 to 1.

    ``loss`` is the cross-entropy in nats, ``thumbnail`` a data URI, ``None`` where the report holds enough of them.
    """

    image: str
    truth: str
    answer: str
    probability: float
    truth_probability: float
    loss: float
    thumbnail: str | None = None


@dataclass(frozen=True)
class Original:
    """The original on the photos of a report; ``loss`` is its mean cross-entropy in nats.

    ``per_label`` goes by label id and leaves out labels that no image has and none is answered with. ``confusion`` is
    by true label, then by answer, the number of images; what never happened is left out. ``worst`` are at most
    `MOST_WORST` images, the highest loss first.
    """

    loss: float
    per_label: dict[str, LabelScores] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    worst: tuple[WorstImage, ...] = ()
