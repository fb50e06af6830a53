"""The report's plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgetl.reports.pareto import accuracy_against_latency, accuracy_against_size
from edgetl.reports.plot_style import Plot, add_legend, colour_of, finished, literal, marker_of
from edgetl.reports.svg import COLOURS, new_figure, page_style
from edgetl.reports.table import wrong_layers
from edgetl.verify.report import SQNR_LIMIT_DB, Report, VariantReport

__all__ = ["draw_layers", "draw_pareto", "draw_plots"]

_MOST_CLASSES = 24
_MOST_LAYER_NAMES = 24
_LAYER_DB = (0.0, 100.0)


def draw_pareto(report: Report) -> list[Plot]:
    """Accuracy against latency and against size, as far as they were measured.

    Raises `MissingDependency` without matplotlib, as the others do.
    """
    return _drawn(report, (accuracy_against_latency, accuracy_against_size))


def draw_plots(report: Report) -> list[Plot]:
    """The other plots for which the report has numbers."""
    return _drawn(report, (_latency, _size, _sqnr, _classes))


def draw_layers(report: Report) -> Plot | None:
    """SQNR by layer, a line for every variant that was taken apart; None when none was."""
    shown = [variant for variant in report.variants if variant.layers]
    if not shown:
        return None
    order = _running_order([[(layer.node, layer.module) for layer in variant.layers] for variant in shown])
    places = {node: place for place, (node, _) in enumerate(order)}
    wrong = wrong_layers(report)
    formats = list(dict.fromkeys(variant.target for variant in shown))
    low, high = _LAYER_DB
    with page_style():
        # A panel for each: the three int8 files compute the same, and their lines would lie on each other.
        figure, panels = new_figure(1.9 + 1.3 * len(formats), rows=len(formats))
        for name, axes in zip(formats, panels, strict=True):
            for variant in (variant for variant in shown if variant.target == name):
                points = [(places[layer.node], min(max(layer.sqnr_db, low), high)) for layer in variant.layers]
                look = {"marker": marker_of(variant.precision), "markersize": 2.5, "linewidth": 1}
                axes.plot(*zip(*points, strict=True), color=colour_of(variant), **look)
                if (layer := wrong.get(variant.id)) is not None:
                    ring = {"markerfacecolor": "none", "markeredgecolor": COLOURS["ink"], "markersize": 9}
                    axes.plot(places[layer.node], min(max(layer.sqnr_db, low), high), "o", **ring)
            axes.grid(visible=False, axis="x")
            axes.set_ylabel("SQNR, dB")
            axes.set_ylim(bottom=low)
            axes.set_title(literal(name), loc="left", fontsize=9)
        step = -(-len(order) // _MOST_LAYER_NAMES)
        names = [literal(module) for _, module in order[::step]]
        panels[-1].set_xticks(range(0, len(order), step), names, rotation=90, fontsize=6.5)
        add_legend(figure, shown)
        worst = [(variant.id, min(variant.layers, key=lambda layer: layer.sqnr_db)) for variant in shown]
        numbers = "; ".join(f"{name}: lowest {layer.sqnr_db:.1f} dB at {layer.module}" for name, layer in worst)
        return finished("Distance layer by layer", f"{len(order)} layers. {numbers}.", figure)


def _drawn(report: Report, makers: Sequence[Callable[[Report], Plot | None]]) -> list[Plot]:
    with page_style():
        drawn = [make(report) for make in makers]
    return [plot for plot in drawn if plot is not None]


def _running_order(sequences: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    """All of the sequences as one: what only some have follows what is before it there."""
    order: list[tuple[str, str]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        place = 0
        for item in sequence:
            if item not in order:
                order.insert(place, item)
            place = order.index(item) + 1
    return order


def _latency(report: Report) -> Plot | None:
    bars = [(v, v.latency.p50_ms, f"{v.latency.p50_ms:.2f}") for v in report.variants if v.latency]
    return _bars("Median latency", "ms for one image, one at a time", bars)


def _size(report: Report) -> Plot | None:
    bars = [(v, v.bytes / 1e6, f"{v.bytes / 1e6:.2f}") for v in report.variants if v.bytes is not None]
    return _bars("Size", "MB (million bytes)", bars)


def _sqnr(report: Report) -> Plot | None:
    bars = []
    for variant in report.variants:
        if variant.parity is not None:
            value = variant.parity.sqnr_db
            text = "equal" if value >= SQNR_LIMIT_DB else "not finite" if value <= -SQNR_LIMIT_DB else f"{value:.1f}"
            bars.append((variant, min(max(value, 0.0), 150.0), text))
    return _bars("Distance from the original", "SQNR of the logits, dB (more is closer)", bars)


def _bars(title: str, axis: str, bars: Sequence[tuple[VariantReport, float, str]]) -> Plot | None:
    """Horizontal bars, one per variant: (variant, length, the number as text)."""
    if not bars:
        return None
    figure, axes = new_figure(0.6 + 0.28 * len(bars))
    drawn = axes.barh(
        [variant.id for variant, _, _ in bars],
        [length for _, length, _ in bars],
        color=[colour_of(variant) for variant, _, _ in bars],
        height=0.68,
    )
    axes.bar_label(drawn, [text for _, _, text in bars], padding=4, fontsize=9, color=COLOURS["ink"])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    axes.set_xlabel(axis)
    numbers = "; ".join(f"{variant.id}: {text}" for variant, _, text in bars)
    return finished(title, f"{axis}. {numbers}.", figure)


def _classes(report: Report) -> Plot | None:
    """Top-1 of each label: a ring for the original, a mark for every variant."""
    reference = {} if report.reference is None else report.reference.per_class
    if not 2 <= len(reference) <= _MOST_CLASSES:
        return None
    labels = list(reference)
    figure, axes = new_figure(1.0 + 0.34 * len(labels))
    for variant in report.variants:
        if variant.accuracy:
            values = [100 * variant.accuracy.per_class[label].top1 for label in labels]
            marker = marker_of(variant.precision)
            axes.plot(values, range(len(labels)), marker, color=colour_of(variant), alpha=0.8, markersize=5)
    originals = [100 * reference[label].top1 for label in labels]
    ring = {"markerfacecolor": "none", "markeredgecolor": COLOURS["ink"], "markersize": 12}
    axes.plot(originals, range(len(labels)), "o", label="original", **ring)
    names = [f"{report.labels.get(label, label)[:18]} ({reference[label].n})" for label in labels]
    axes.set_yticks(range(len(labels)), [literal(name) for name in names])
    axes.invert_yaxis()
    axes.margins(y=0.5 / len(labels))
    axes.set_xlabel("top-1, % (number of images in brackets)")
    add_legend(figure, [variant for variant in report.variants if variant.accuracy], ring=True)
    numbers = "; ".join(f"{label}: {value:.1f} %" for label, value in zip(labels, originals, strict=True))
    return finished("Accuracy by label", f"Of the original: {numbers}.", figure)
