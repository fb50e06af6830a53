"""The report's main table as text, shared by terminal, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl.tasks import task_of
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.layers.parting import find_place
from edgetl.verify.report import SQNR_LIMIT_DB, Check, LayerError, Report, VariantReport
from edgetl_runtime.quantities import number_in_words, told_apart

__all__ = [
    "Row",
    "decibels_in_words",
    "describe",
    "describe_limit",
    "describe_value",
    "headings",
    "is_of_parity",
    "name_of",
    "rows",
    "speed_up",
    "verdict_line",
    "where_it_goes_wrong",
    "wrong_layers",
]

_EMPTY = "-"


@dataclass(frozen=True)
class Row:
    """One variant: ``cells`` go with `headings`; speed is how many times faster than fp32 of the same target.

    ``undecided``: it passed, but not all of its checks could be decided.
    """

    id: str
    cells: tuple[str, ...]
    passed: bool
    undecided: bool = False

    @property
    def mark(self) -> str:
        """``pass``, ``open`` (undecided) or ``fail``."""
        return "fail" if not self.passed else "open" if self.undecided else "pass"


def headings(report: Report) -> tuple[str, ...]:
    """Of the columns; the quality is called what the task calls it."""
    quality = task_of(report.task).quality
    return ("variant", "agree", "SQNR dB", quality, "delta", "p50 ms", "p95 ms", "speed", "size MB", "gate")


def rows(report: Report) -> list[Row]:
    """One row per variant, in the report's order."""
    failed = {check.variant for check in report.verdict.failed}
    undecided = {check.variant for check in report.verdict.undecided}
    return [
        _row(variant, report, passed=variant.id not in failed, undecided=variant.id in undecided)
        for variant in report.variants
    ]


def describe(check: Check) -> str:
    """A check in words."""
    where = f"{check.variant}: " if check.variant else ""
    if check.limit is None:
        return f"{where}{check.note}"
    found = check.note if check.value is None else f"is {describe_value(check)}"
    said = f"{where}{name_of(check.what)} {found}, the gate asks for {describe_limit(check)}"
    return f"{said} ({check.note})" if check.note and check.value is not None else said


def name_of(what: str) -> str:
    """A quantity of the gate in words; ``baseline.`` in front says that it is about a change since the baseline."""
    rest = what.removeprefix("baseline.")
    named = QUANTITIES[rest].title if rest in QUANTITIES else rest.replace("_", " ")
    return named if rest == what else f"{named} since the baseline"


def describe_limit(check: Check) -> str:
    """The limit in words; empty when the check is that the variant works at all."""
    if check.limit is None:
        return ""
    limit = number_in_words(check.limit) if check.value is None else told_apart(check.value, check.limit)[1]
    return f"{'at least' if check.relation == '>=' else 'at most'} {limit}"


def describe_value(check: Check) -> str:
    """The measured value, with enough digits to differ from the limit; or the reason why there is none."""
    if check.value is None:
        return str(check.note)
    between = f" ({' to '.join(map(number_in_words, check.interval))})" if check.interval else ""
    value = number_in_words(check.value) if check.limit is None else told_apart(check.value, check.limit)[0]
    return f"{value}{between}"


def verdict_line(report: Report) -> str:
    """The verdict in one line."""
    failed = {check.variant or "the bundle" for check in report.verdict.failed}
    if report.verdict.passed:
        said = f"PASSED: all {len(report.variants)} variants hold the gate's {len(report.verdict.checks)} limits"
        undecided = len(report.verdict.undecided)
        said = f"{said}, {undecided} of them undecided" if undecided else said
        return f"{said}; {len(report.left_out)} more of the bundle were not measured" if report.left_out else said
    if not report.verdict.checks:
        return "FAILED: nothing was measured"
    return f"FAILED: {len(failed)} of {len(report.variants)} variants: {', '.join(sorted(failed))}"


def wrong_layers(report: Report) -> dict[str, LayerError]:
    """By id of the variants that failed in parity, the layer where each goes wrong by the rule of `edgetl inspect`.

    A limit on accuracy or latency says nothing of layers, and what every variant of a precision loses is its price.
    """
    failed = {check.variant for check in report.verdict.failed if is_of_parity(check.what)}
    places = {variant.id: find_place(variant, report.variants) for variant in report.variants if variant.id in failed}
    return {id_: layer for id_, layer in places.items() if layer is not None}


def where_it_goes_wrong(report: Report) -> list[str]:
    """A line for every one of `wrong_layers`, by original module."""
    return [
        f"{id_} first goes wrong at {layer.module} ({layer.node}: {layer.sqnr_db:.1f} dB, {layer.drop_db:.1f} dB below "
        "what goes in)"
        for id_, layer in wrong_layers(report).items()
    ]


def is_of_parity(what: str) -> bool:
    """Whether the check `what` holds outputs against the original's: not accuracy, time, size or a fault."""
    quantity = QUANTITIES.get(what.removeprefix("baseline."))
    return quantity is not None and (quantity.part == "parity" or quantity.field == "features_sqnr_db")


def speed_up(variant: VariantReport, report: Report) -> float | None:
    """How many times faster than fp32 of the same target; ``None`` when either was not measured.

    Where they were timed in the same rounds it is what those say, else the quotient of the medians.
    """
    if variant.latency is not None and variant.latency.speedup is not None:
        return variant.latency.speedup
    for other in report.variants:
        if other.target != variant.target or other.precision != "fp32" or other.measured != variant.measured:
            continue
        if other.latency and variant.latency:
            return other.latency.p50_ms / variant.latency.p50_ms
    return None


def _row(variant: VariantReport, report: Report, *, passed: bool, undecided: bool) -> Row:
    parity, quality, latency = variant.parity, variant.known_quality, variant.latency
    faster = speed_up(variant, report)
    cells = (
        variant.id,
        _EMPTY if parity is None else _share(parity.decided_alike),
        _EMPTY if parity is None else decibels_in_words(parity.sqnr_db),
        _EMPTY if quality is None else _share(quality.value),
        _EMPTY if quality is None or quality.delta is None else f"{100 * quality.delta:+.1f}",
        _EMPTY if latency is None else f"{latency.p50_ms:.2f}",
        _EMPTY if latency is None else f"{latency.p95_ms:.2f}",
        _EMPTY if faster is None else f"{faster:.2f}x",
        _EMPTY if variant.bytes is None else f"{variant.bytes / 1e6:.2f}",
        "FAIL" if not passed else "open" if undecided else "pass",
    )
    return Row(variant.id, cells, passed, undecided)


def _share(share: float) -> str:
    """Percent with one digit, rounded so that 100.0 means all of them and nothing less."""
    percent = 100 * share
    return f"{percent:.1f}" if share == 1.0 else f"{min(percent, 99.94):.1f}"


def decibels_in_words(value: float) -> str:
    """One digit behind the point; `equal` or `broken` at the ends of the scale."""
    if abs(value) < SQNR_LIMIT_DB:
        return f"{value:.1f}"
    return "equal" if value > 0 else "broken"
