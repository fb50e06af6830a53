"""What a report says beside its table, as plain text that all renderings share."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl.reports.table import decibels_in_words, name_of
from edgetl.stats import is_significant
from edgetl.tasks.classification.changed_predictions import worst_labels
from edgetl.tasks.classification.results import ChangedPredictions, LabelChanges
from edgetl.verify.report import Change, Measured, Report, VariantReport
from edgetl_runtime.quantities import number_in_words, told_apart

__all__ = [
    "ChangeRow",
    "all_changed_predictions_in_words",
    "causes",
    "change_rows",
    "changed_predictions_in_words",
    "changes_in_words",
    "class_in_words",
    "feature_table",
    "features_in_words",
    "input_in_words",
    "label_name",
    "measured_apart",
    "most_changed_labels",
    "quality_in_words",
    "slower_than_float",
    "undecided_checks",
    "why_no_speed",
]

_MOST_CLASSES = 3


@dataclass(frozen=True)
class ChangeRow:
    """One change since the baseline as text; ``mark`` is one of worse, better, changed, noise."""

    variant: str
    what: str
    before: str
    after: str
    mark: str
    note: str

    def in_words(self) -> str:
        """The change in one line."""
        where = f"{self.variant}: " if self.variant else ""
        return f"{where}{self.what} {self.before} -> {self.after} ({self.mark}; {self.note})"


def change_rows(report: Report) -> list[ChangeRow]:
    """Every change since the baseline, those that count first, the worse ones in front; empty without a baseline."""
    if report.baseline is None:
        return []
    order = {"worse": 0, "changed": 1, "better": 2, "noise": 3}
    return sorted(map(_change_row, report.baseline.changes), key=lambda row: order[row.mark])


def slower_than_float(report: Report) -> list[str]:
    """A line for every int8 variant that is slower here than fp32 of its target, by more than chance."""
    return [
        f"{variant.id} is slower here than {variant.target}.fp32: {latency.speedup:.2f} times as fast "
        f"({latency.speedup_ci95[0]:.2f} to {latency.speedup_ci95[1]:.2f})"
        for variant in report.variants
        if variant.precision == "int8"
        and (latency := variant.latency) is not None
        and latency.speedup is not None
        and latency.speedup_ci95 is not None
        and latency.speedup_ci95[1] < 1.0
    ]


def why_no_speed(report: Report) -> list[str]:
    """Why the column of speeds has no number, where fp32 is missing that it would be against."""
    targets = {variant.target for variant in report.variants if variant.latency is not None}
    without = sorted(targets - {variant.target for variant in report.variants if variant.precision == "fp32"})
    if not without:
        return []
    return [
        f"speed is times faster than fp32 of the same format, and there is none of {', '.join(without)}: "
        "--precisions with fp32 makes it"
    ]


def changes_in_words(report: Report) -> list[str]:
    """What changed since the baseline beyond noise, a line each, and how much did not; empty without a baseline."""
    if report.baseline is None:
        return []
    rows = change_rows(report)
    counted = [row.in_words() for row in rows if row.mark != "noise"]
    noise = len(rows) - len(counted)
    rest = f"within noise: {noise} other differences" if noise and counted else "nothing changed beyond noise"
    when = f"since {report.baseline.source} of {report.baseline.created[:10]}"
    return [*counted, f"{rest} {when}"] if noise or not counted else [*counted[:-1], f"{counted[-1]} {when}"]


def causes(variant: VariantReport) -> list[str]:
    """The causes that were recognised for a variant, a line each."""
    return [f"{variant.id}: {found.cause}: {found.evidence}. Fix: {found.fix}" for found in variant.findings]


def feature_table(report: Report) -> list[tuple[str, ...]]:
    """SQNR in dB of every feature: a line of headings, then one for every variant; empty when there are no features."""
    names = list(dict.fromkeys(feature.name for variant in report.variants for feature in variant.features))
    if not names:
        return []
    measured = [
        (variant.id, {feature.name: decibels_in_words(feature.sqnr_db) for feature in variant.features})
        for variant in report.variants
        if variant.features
    ]
    return [("variant", *names), *((id_, *(found.get(name, "-") for name in names)) for id_, found in measured)]


def features_in_words(report: Report) -> list[str]:
    """A line for every feature: its SQNR in dB by variant."""
    table = feature_table(report)
    return [
        f"{name} (dB): " + ", ".join(f"{row[0]} {row[column]}" for row in table[1:])
        for column, name in enumerate(table[0] if table else ())
        if column
    ]


def quality_in_words(report: Report, interval: str = "") -> str:
    """Name and value of the original's quality, with its interval, in front of which stands `interval`."""
    quality = report.known_quality
    if quality is None:
        return "quality not measured"
    between = "" if quality.ci95 is None else f" ({interval}{quality.ci95[0]:.1%} to {quality.ci95[1]:.1%})"
    return f"{quality.name} {quality.value:.1%}{between}"


def undecided_checks(report: Report) -> list[str]:
    """A line for every check that the longest measuring did not decide."""
    return [
        f"{check.variant}: {name_of(check.what)}: {check.note or 'the interval straddles the limit'}"
        for check in report.verdict.checks
        if check.undecided
    ]


def measured_apart(report: Report) -> list[str]:
    """A line for every time at which some of the variants, or parts of them, were measured; empty when all were at
    once."""
    times: dict[Measured, list[str]] = {}
    for variant in report.variants:
        if variant.measured is None:
            continue
        times.setdefault(variant.measured, []).append(variant.id)
        for part, when in variant.earlier.items():
            times.setdefault(when, []).append(f"{part} of {variant.id}")
    if len(times) < 2:
        return []
    return [
        f"measured {when.created.replace('T', ' ').replace('+00:00', ' UTC')} on {when.data.n} images"
        + (f", {when.processor}" if when.processor else "")
        + f": {', '.join(names)}"
        for when, names in sorted(times.items(), key=lambda item: item[0].created)
    ]


def changed_predictions_in_words(variant: VariantReport, report: Report) -> str | None:
    """How many decisions of the original a variant changes, and the labels it makes worse; None when it is unknown."""
    damage = variant.damage
    if damage is None:
        return None
    if not damage.flipped:
        return f"{variant.id} decides like the original on all {report.data.n} images"
    rest = damage.flipped - damage.broken - damage.repaired
    counts = f"{damage.broken} broken, {damage.repaired} repaired, {rest} wrong either way"
    said = f"{variant.id} changes {damage.flipped} of {report.data.n} decisions: {counts}"
    worst = most_changed_labels(damage)[:_MOST_CLASSES]
    if worst:
        said += "; worse by more than chance: "
        said += ", ".join(class_in_words(label, found, report) for label, found in worst)
    return said


def all_changed_predictions_in_words(report: Report) -> list[str]:
    """`changed_predictions_in_words` for every variant that changes something, and one line for those that do not."""
    said = [
        text
        for variant in report.variants
        if variant.damage and variant.damage.flipped and (text := changed_predictions_in_words(variant, report))
    ]
    same = [variant.id for variant in report.variants if variant.damage and not variant.damage.flipped]
    if same:
        said.append(f"like the original on all {report.data.n} images: {', '.join(same)}")
    return said


def most_changed_labels(damage: ChangedPredictions) -> list[tuple[str, LabelChanges]]:
    """The labels that a variant makes worse by more than chance explains, the worst first."""
    return [
        (label, found)
        for label, found in worst_labels(damage.per_class, len(damage.per_class))
        if found.variant < found.original and is_significant(found.p_value)
    ]


def class_in_words(label: str, found: LabelChanges, report: Report) -> str:
    """Accuracy of one label before and after, with the number of images and the p value."""
    return (
        f"{label_name(label, report)} {100 * found.original:.1f} -> {100 * found.variant:.1f} % of {found.n} "
        f"(p {found.p_value:.2g})"
    )


def label_name(label: str, report: Report) -> str:
    """The name of a label id; the empty id is no decision at all."""
    return report.labels.get(label, label) if label else "no decision"


def input_in_words(report: Report) -> str | None:
    """What the network takes, the height first; None for a report that does not know."""
    shape = (report.contract.get("input") or {}).get("shape")
    if not isinstance(shape, (list, tuple)) or len(shape) != 4:
        return None
    _, height, width, channels = shape
    return f"{height} x {width} pixels (height x width), {channels} {'channel' if channels == 1 else 'channels'}"


def _change_row(change: Change) -> ChangeRow:
    before, after = change.before, change.after
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        mark = "worse" if change.significant and change.worse else "changed"  # a text is another or it is not
        texts = _value(before), _value(after)
    else:
        mark = "noise" if not change.significant else "worse" if change.worse else "better"
        texts = told_apart(before, after)
    return ChangeRow(change.variant, name_of(change.what), *texts, mark=mark, note=change.note)


def _value(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else number_in_words(value)
