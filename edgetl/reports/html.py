"""The report as one HTML file: no script, nothing fetched, light and dark, for a phone and for a desk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl.reports.calibration_ranges import draw_ranges, read_ranges
from edgetl.reports.changed_predictions_views import changed_prediction_cards, class_table
from edgetl.reports.ladder import PROVENANCE, attempts, ladder_variants, method_of, surgery_line
from edgetl.reports.original_views import view_original
from edgetl.reports.page import render_page
from edgetl.reports.phrases import (
    all_changed_predictions_in_words,
    change_rows,
    feature_table,
    input_in_words,
    measured_apart,
    quality_in_words,
    slower_than_float,
    undecided_checks,
)
from edgetl.reports.plot_style import Plot
from edgetl.reports.plots import draw_layers, draw_pareto, draw_plots
from edgetl.reports.table import (
    describe,
    describe_limit,
    describe_value,
    headings,
    name_of,
    rows,
    speed_up,
    verdict_line,
)
from edgetl.reports.training_plots import draw_training, training_in_words
from edgetl.reports.usage import usage_of
from edgetl.tasks import task_of
from edgetl.verify.layers.layer_error import AS_GOOD_AS_EXACT_DB
from edgetl.verify.measure.cross_format import formats_in_words
from edgetl.verify.report import Check, Latency, LayerError, Memory, Report, VariantReport
from edgetl_runtime.errors import BundleError

__all__ = ["render_html"]

_NOTHING: tuple[object, ...] = (None, "", [], {})

_COLUMN_HELP = {
    "agree": "share of decisions that are the original's, %",
    "SQNR dB": "signal to quantisation noise ratio of the outputs against the original",
    "top-1": "accuracy, %",
    "delta": "the column before it minus the original's, percentage points",
    "p50 ms": "median latency of one image",
    "p95 ms": "95th percentile of latency",
    "speed": "how many times faster than fp32 of the same target",
    "size MB": "all files of the variant, million bytes",
    "gate": "whether all limits hold; open: the longest measuring did not decide all of them",
}
_DETAIL_HEADINGS = (
    "variant",
    "quantised",
    "engine",
    "load ms",
    "first ms",
    "preprocess ms",
    "runs",
    "of the reference's time",
    "peak MB",
    "cold start ms",
    "top-5",
    "95 % interval",
    "max abs",
    "cosine",
)


@dataclass(frozen=True)
class _Card:
    title: str
    value: str
    note: str


def render_html(report: Report, *, bundle: Path | None = None) -> str:
    """The page, complete; with the ranges of calibration when `bundle` is the folder that has them.

    Raises `MissingDependency` without jinja2 or matplotlib.
    """
    ranges, ranges_error = _ranges(bundle)
    changes = change_rows(report)
    return render_page(
        "report.html.j2",
        report=report,
        verdict=verdict_line(report),
        failures=[describe(check) for check in report.verdict.failed],
        undecided=undecided_checks(report),
        causes=[(variant.id, found) for variant in report.variants for found in variant.findings],
        changes=[row for row in changes if row.mark != "noise"],
        noise=[row for row in changes if row.mark == "noise"],
        classes=class_table(report),
        flips=changed_prediction_cards(report),
        damage=all_changed_predictions_in_words(report),
        ranges=ranges,
        ranges_error=ranges_error,
        cards=_cards(report),
        use=usage_of(report),
        quality=quality_in_words(report, "95 % interval "),
        quality_name=task_of(report.task).quality,
        headings=[(heading, _COLUMN_HELP.get(heading, "")) for heading in headings(report)],
        rows=rows(report),
        slower=slower_than_float(report),
        apart=measured_apart(report),
        features=feature_table(report),
        pareto=draw_pareto(report),
        plots=draw_plots(report),
        layers=draw_layers(report),
        original=view_original(report),
        training=draw_training(report),
        training_said=training_in_words(report),
        exact_db=f"{AS_GOOD_AS_EXACT_DB:.0f}",
        suspects=[_suspect(variant, layer) for variant in report.variants for layer in variant.suspects],
        layer_errors=[(variant.id, variant.layers_error) for variant in report.variants if variant.layers_error],
        detail_headings=_DETAIL_HEADINGS,
        ladder_variants=ladder_variants(report),
        attempts=attempts(report),
        surgery=surgery_line(report),
        twins=formats_in_words(report.twins),
        details=[_details(variant, report) for variant in report.variants],
        checks=[
            (check, name_of(check.what), describe_limit(check), describe_value(check), _mark(check))
            for check in report.verdict.checks
        ],
        machine=_flat(report.machine),
        input=input_in_words(report),
        provenance=_flat({name: value for name, value in report.provenance.items() if name not in PROVENANCE}),
    )


def _ranges(bundle: Path | None) -> tuple[list[Plot], str | None]:
    """Plots of the calibration, or why there are none."""
    if bundle is None:
        return [], None
    try:
        return draw_ranges(read_ranges(bundle / "quantization.json")), None
    except BundleError as error:
        return [], error.what


def _mark(check: Check) -> str:
    return "open" if check.undecided else "pass" if check.passed else "fail"


def _cards(report: Report) -> list[_Card]:
    """What a reader wants first: the original, and the best of the variants that pass."""
    cards = []
    if (quality := report.known_quality) is not None:
        between = "" if quality.ci95 is None else f"{quality.ci95[0]:.1%} to {quality.ci95[1]:.1%} "
        cards.append(
            _Card(f"Original, {quality.name}", f"{quality.value:.1%}", f"{between}over {report.data.n} images")
        )
    failed = {check.variant for check in report.verdict.failed}
    passed = [variant for variant in report.variants if variant.id not in failed]
    timed = [(variant.latency.p50_ms, variant) for variant in passed if variant.latency]
    if timed:
        ms, fastest = min(timed, key=lambda pair: pair[0])
        faster = speed_up(fastest, report)
        note = fastest.id if faster is None else f"{fastest.id}, {faster:.1f} times fp32"
        cards.append(_Card("Fastest that passes", f"{ms:.2f} ms", note))
    sized = [(variant.bytes, variant) for variant in passed if variant.bytes is not None]
    if sized:
        size, smallest = min(sized, key=lambda pair: pair[0])
        cards.append(_Card("Smallest that passes", f"{size / 1e6:.2f} MB", smallest.id))
    cards.append(_Card("Variants that pass", f"{len(passed)} of {len(report.variants)}", "against the gate's limits"))
    return cards


def _details(variant: VariantReport, report: Report) -> tuple[str, ...]:
    """Cells for `_DETAIL_HEADINGS`."""
    latency, parity, accuracy, memory = variant.latency, variant.parity, variant.accuracy, variant.memory
    empty = "-"
    return (
        variant.id,
        method_of(variant.id, report) or empty,
        " ".join(part for part in (variant.engine, variant.engine_version) if part) or empty,
        empty if latency is None else f"{latency.load_ms:.1f}",
        empty if latency is None else f"{latency.first_ms:.1f}",
        empty if latency is None else f"{latency.preprocess_ms:.2f}",
        empty if latency is None else f"{latency.n}",
        _ratio(latency) or empty,
        empty if memory is None else f"{memory.peak_rss_bytes / 1e6:.0f}",
        _cold_start(memory) or empty,
        empty if accuracy is None else f"{100 * accuracy.top5:.1f}",
        empty if accuracy is None else f"{100 * accuracy.ci95[0]:.1f} to {100 * accuracy.ci95[1]:.1f}",
        empty if parity is None or parity.max_abs is None else f"{parity.max_abs:.3g}",
        empty if parity is None or parity.cosine is None else f"{parity.cosine:.5f}",
    )


def _ratio(latency: Latency | None) -> str | None:
    """The cost of a run as a multiple of the reference engine's in the same rounds, with its interval."""
    if latency is None or latency.ratio is None:
        return None
    between = f" ({latency.ratio_ci95[0]:.2f} to {latency.ratio_ci95[1]:.2f})" if latency.ratio_ci95 else ""
    return f"{latency.ratio:.2f}{between}"


def _cold_start(memory: Memory | None) -> str | None:
    """What a fresh process takes: import + load + first run."""
    if memory is None or memory.load_ms is None:
        return None
    parts = (memory.import_ms, memory.load_ms, memory.first_ms)
    return " + ".join("-" if part is None else f"{part:.0f}" for part in parts)


def _suspect(variant: VariantReport, layer: LayerError) -> tuple[str, ...]:
    """Cells of the table of layers: variant, module, node, SQNR and fall in dB."""
    return variant.id, layer.module, layer.node, f"{layer.sqnr_db:.1f}", f"{layer.drop_db:.1f}"


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and texts for a description list; what is nested twice has a row for each part."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            rows += [(f"{name}: {part}", text) for part, text in _flat(value)]
        elif name.endswith("_bytes") and isinstance(value, int):
            rows.append((name.removesuffix("_bytes"), f"{value / 1e9:.1f} GB"))
        elif value not in _NOTHING:
            rows.append((name, _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items() if part not in _NOTHING)
    if isinstance(value, (list, tuple)):
        parts = [_text(part) for part in value]
        if any(isinstance(part, (int, float)) for part in value):
            return f"({', '.join(parts)})"
        return ("; " if any(", " in part for part in parts) else ", ").join(parts)
    return f"{value:g}" if isinstance(value, float) else str(value)
