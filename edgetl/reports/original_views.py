"""What the HTML report shows of the original: labels as a table, confusions as a heat map, worst images as cards."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl.reports.phrases import label_name
from edgetl.tasks.classification.original import most_confused
from edgetl.tasks.classification.results import LabelScores, Original, WorstImage
from edgetl.verify.report import Report

__all__ = ["ConfusionCell", "ConfusionRow", "LabelRow", "OriginalView", "WorstCard", "view_original"]

_MOST_LABELS = 40
_MOST_IN_MATRIX = 20
_MOST_PAIRS = 12
_STRONGEST = 50.0
"""Percent of colour behind a number: with more of it the number would be hard to read."""
_WEAKEST = 8.0


@dataclass(frozen=True)
class LabelRow:
    """One label as text; ``mistaken`` is what it is most often taken for."""

    label: str
    n: int
    recall: str
    precision: str
    mistaken: str


@dataclass(frozen=True)
class ConfusionCell:
    """A number of images, ``kind`` ``right`` or ``wrong``, on ``strength`` percent of its colour."""

    n: int
    kind: str
    strength: float


@dataclass(frozen=True)
class ConfusionRow:
    """The images of one label by answer, in the order of the columns."""

    label: str
    cells: tuple[ConfusionCell, ...]


@dataclass(frozen=True)
class WorstCard:
    """One image as text: probabilities in percent, the loss in nats."""

    image: str
    thumbnail: str | None
    right: bool
    truth: str
    truth_probability: str
    answer: str
    probability: str
    loss: str


@dataclass(frozen=True)
class OriginalView:
    """``labels``: those of the lowest recall first, ``left_out`` more are not shown. ``columns`` and ``matrix`` are
    empty with more than 20 labels. ``pairs``: the most frequent confusions in words. ``worst``: cards."""

    labels: tuple[LabelRow, ...]
    left_out: int
    columns: tuple[str, ...]
    matrix: tuple[ConfusionRow, ...]
    pairs: tuple[str, ...]
    worst: tuple[WorstCard, ...]


def view_original(report: Report) -> OriginalView | None:
    """The original of `report` for its page; None in reports from before it was judged."""
    original = report.original
    if original is None:
        return None
    order = sorted(original.per_label.items(), key=lambda item: (item[1].recall is None, item[1].recall or 0.0))
    columns = [*original.per_label] if len(original.per_label) <= _MOST_IN_MATRIX else []
    return OriginalView(
        labels=tuple(_label_row(label, scores, report, original) for label, scores in order[:_MOST_LABELS]),
        left_out=max(0, len(order) - _MOST_LABELS),
        columns=tuple(label_name(label, report) for label in columns),
        matrix=tuple(_confusion_row(label, columns, report, original) for label in columns),
        pairs=tuple(
            f"{label_name(label, report)} taken for {label_name(answer, report)}: {n} of {original.per_label[label].n}"
            for label, answer, n in most_confused(original, _MOST_PAIRS)
        ),
        worst=tuple(_worst_card(worst, report) for worst in original.worst),
    )


def _label_row(label: str, scores: LabelScores, report: Report, original: Original) -> LabelRow:
    wrong = {answer: n for answer, n in original.confusion.get(label, {}).items() if answer != label}
    most = max(wrong, key=lambda answer: wrong[answer], default=None)
    return LabelRow(
        label=label_name(label, report),
        n=scores.n,
        recall=_percent(scores.recall),
        precision=_percent(scores.precision),
        mistaken="" if most is None else f"{label_name(most, report)} ({wrong[most]})",
    )


def _confusion_row(label: str, columns: list[str], report: Report, original: Original) -> ConfusionRow:
    answers, n = original.confusion.get(label, {}), original.per_label[label].n
    return ConfusionRow(
        label_name(label, report),
        tuple(
            ConfusionCell(
                answers.get(column, 0),
                "right" if column == label else "wrong",
                round(_WEAKEST + (_STRONGEST - _WEAKEST) * answers[column] / n, 1) if column in answers else 0.0,
            )
            for column in columns
        ),
    )


def _worst_card(worst: WorstImage, report: Report) -> WorstCard:
    return WorstCard(
        image=worst.image,
        thumbnail=worst.thumbnail,
        right=worst.answer == worst.truth,
        truth=label_name(worst.truth, report),
        truth_probability=f"{100 * worst.truth_probability:.1f}",
        answer=label_name(worst.answer, report),
        probability=f"{100 * worst.probability:.1f}",
        loss=f"{worst.loss:.2f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
