"""What the HTML report shows of damage: flipped images as cards, labels by variants as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetl.reports.phrases import label_name
from edgetl.stats import is_significant
from edgetl.tasks.classification.results import ChangedPrediction, LabelChanges
from edgetl.verify.report import Report, VariantReport

__all__ = ["ChangedPredictionCard", "ClassCell", "ClassRow", "ClassTable", "changed_prediction_cards", "class_table"]

_MOST_CARDS = 24
_MOST_LABELS = 20


@dataclass
class ChangedPredictionCard:
    """One image that some variants decide otherwise: their ids by the label that they give it.

    ``kind``: ``broken`` when the original was right, ``repaired`` when a variant is, else ``wrong``. ``margin`` is how
    sure the original was, in percent.
    """

    image: str
    thumbnail: str | None
    truth: str
    original: str
    kind: str
    margin: str
    answers: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassCell:
    """The change of one label by one variant, in points; ``kind`` is empty, ``lost``, ``sure`` (significant) or
    ``gained``."""

    text: str
    kind: str


@dataclass(frozen=True)
class ClassRow:
    """One label: its name, number of images, accuracy of the original in percent, a cell for every variant."""

    label: str
    n: int
    original: str
    cells: tuple[ClassCell, ...]


@dataclass(frozen=True)
class ClassTable:
    """Labels that a variant changes, those that lost most in front, for the ``variants`` that change any.

    ``unchanged`` labels are not in it, and ``left_out`` is how many more would be.
    """

    variants: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    unchanged: int
    left_out: int


def changed_prediction_cards(report: Report) -> list[ChangedPredictionCard]:
    """At most 24 images, those that most variants flip first, then those that the original was surest of."""
    cards: dict[tuple[str, str], ChangedPredictionCard] = {}
    flips: dict[tuple[str, str], list[ChangedPrediction]] = {}
    for variant in report.variants:
        for flip in variant.damage.flips if variant.damage else ():
            key = (flip.image, flip.truth)
            card = cards.setdefault(key, _card(flip, report))
            card.thumbnail = card.thumbnail or flip.thumbnail
            card.answers.setdefault(label_name(flip.variant, report), []).append(variant.id)
            flips.setdefault(key, []).append(flip)
            if flip.variant == flip.truth:
                card.kind = "repaired"
    order = sorted(cards, key=lambda key: (-len(flips[key]), -flips[key][0].original_margin))
    return [cards[key] for key in order[:_MOST_CARDS]]


def class_table(report: Report) -> ClassTable | None:
    """Damage by label; None when it was not measured or there is none."""
    changed = [variant for variant in report.variants if variant.damage and variant.damage.flipped]
    per_class = [variant.damage.per_class for variant in changed if variant.damage]
    labels = list(dict.fromkeys(label for found in per_class for label in found))
    rows = [label for label in labels if any(_lost(found.get(label)) != 0.0 for found in per_class)]
    if not rows:
        return None
    rows.sort(key=lambda label: -sum(_lost(found.get(label)) for found in per_class))
    return ClassTable(
        variants=tuple(variant.id for variant in changed),
        rows=tuple(_class_row(label, changed, report) for label in rows[:_MOST_LABELS]),
        unchanged=len(labels) - len(rows),
        left_out=max(0, len(rows) - _MOST_LABELS),
    )


def _card(flip: ChangedPrediction, report: Report) -> ChangedPredictionCard:
    return ChangedPredictionCard(
        image=flip.image,
        thumbnail=flip.thumbnail,
        truth=label_name(flip.truth, report),
        original=label_name(flip.original, report),
        kind="broken" if flip.original == flip.truth else "wrong",
        margin=f"{100 * flip.original_margin:.0f}",
    )


def _class_row(label: str, variants: list[VariantReport], report: Report) -> ClassRow:
    found = [variant.damage.per_class.get(label) for variant in variants if variant.damage]
    known = next(damage for damage in found if damage is not None)
    return ClassRow(
        label=label_name(label, report),
        n=known.n,
        original=f"{100 * known.original:.1f}",
        cells=tuple(map(_class_cell, found)),
    )


def _class_cell(damage: LabelChanges | None) -> ClassCell:
    if damage is None or damage.variant == damage.original:
        return ClassCell("" if damage is None else "=", "")
    text = f"{100 * (damage.variant - damage.original):+.1f}"
    if damage.variant > damage.original:
        return ClassCell(text, "gained")
    if is_significant(damage.p_value):
        return ClassCell(f"{text} (p {damage.p_value:.2g})", "sure")
    return ClassCell(text, "lost")


def _lost(damage: LabelChanges | None) -> float:
    """Images of a label that a variant lost, less those that it gained."""
    return 0.0 if damage is None else round(damage.n * (damage.original - damage.variant), 6)
