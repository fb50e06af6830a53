"""Accuracy against what it costs: which variants are worth shipping, and which another one beats on both counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgetl.reports.label_placement import Mark, add_labels
from edgetl.reports.plot_style import Plot, add_legend, colour_of, finished, marker_of
from edgetl.reports.svg import COLOURS, new_figure
from edgetl.tasks import task_of
from edgetl.verify.report import Report, VariantReport

__all__ = ["accuracy_against_latency", "accuracy_against_size", "dominated"]

_FADED = 0.35
_LEAST_SPAN = 1.0  # points of accuracy: differences of a few images stay small on the page


@dataclass(frozen=True)
class _Point:
    """A variant at ``cost`` (ms or MB) and ``top1`` in percent."""

    variant: VariantReport
    cost: float
    top1: float


def accuracy_against_latency(report: Report) -> Plot | None:
    """Top-1 over the median latency of one image; None when neither was measured."""
    return _pareto(
        report,
        "Quality against latency",
        "median latency, ms",
        lambda variant: variant.latency.p50_ms if variant.latency else None,
    )


def accuracy_against_size(report: Report) -> Plot | None:
    """Top-1 over the size of all files of a variant; None without accuracies."""
    return _pareto(
        report,
        "Quality against size",
        "size, MB (million bytes)",
        lambda variant: None if variant.bytes is None else variant.bytes / 1e6,
    )


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For (cost, accuracy) points: whether another one is as good in both and better in one."""
    return [
        any(other[0] <= cost and other[1] >= gain and other != (cost, gain) for other in points)
        for cost, gain in points
    ]


def _pareto(report: Report, title: str, axis: str, cost_of: Callable[[VariantReport], float | None]) -> Plot | None:
    points = [
        _Point(variant, cost, 100 * quality.value)
        for variant in report.variants
        if (quality := variant.known_quality) is not None and (cost := cost_of(variant)) is not None
    ]
    original, name = report.known_quality, task_of(report.task).quality
    if not points or original is None:
        return None
    beaten = dominated([(point.cost, point.top1) for point in points])
    figure, axes = new_figure(3.5)
    axes.axhline(100 * original.value, color=COLOURS["muted"], linestyle="--", linewidth=1)
    front = sorted((point.cost, point.top1) for point, is_beaten in zip(points, beaten, strict=True) if not is_beaten)
    axes.step(*zip(*front, strict=True), where="post", color=COLOURS["muted"], linewidth=1)
    for point, is_beaten in zip(points, beaten, strict=True):
        look = {"color": colour_of(point.variant), "markeredgecolor": COLOURS["page"], "markersize": 9}
        marker = marker_of(point.variant.precision)
        axes.plot(point.cost, point.top1, marker, alpha=_FADED if is_beaten else 1.0, **look)
    axes.set(xlabel=axis, ylabel=f"{name}, %", xlim=(0, 1.1 * max(point.cost for point in points)))
    least, most = min(point.top1 for point in points), max(point.top1 for point in points)
    room = 0.45 * max(most - least, _LEAST_SPAN)
    axes.set_ylim(least - room, most + room)
    add_legend(figure, [point.variant for point in points])
    marks = [
        Mark(point.cost, point.top1, point.variant.id, is_beaten)
        for point, is_beaten in zip(points, beaten, strict=True)
    ]
    add_labels(figure, axes, marks, front=front, level=100 * original.value)
    best = "; ".join(
        f"{point.variant.id}: {point.cost:.2f}, {point.top1:.1f} %" + (" (beaten)" if is_beaten else "")
        for point, is_beaten in zip(points, beaten, strict=True)
    )
    text = (
        f"Better is up and to the left; faded: another one is as good in both and better in one. Dashed: the original. "
        f"{axis}, {name}: {best}."
    )
    return finished(title, text, figure)
