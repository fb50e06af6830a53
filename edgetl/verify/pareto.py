"""Accuracy against what it costs: which variants are worth shipping, and which another one beats on both counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgetl.verify.marks import Plot, add_legend, colour_of, finished, marker_of
from edgetl.verify.report import Report, VariantReport
from edgetl.verify.svg import COLOURS, new_figure

__all__ = ["accuracy_against_latency", "accuracy_against_size", "dominated"]

_FADED = 0.35
_LEAST_SPAN = 1.0  # points of accuracy: differences of a few images stay small on the page
_FONT = 8.0
_MARK = 5.0  # points from the middle of a mark to its edge, and some air
_LINE = 1.0  # points; half of a line and some air
_CLOSE = 12.0  # points; a label farther away than this gets a line to its mark


@dataclass(frozen=True)
class _Point:
    """A variant at ``cost`` (ms or MB) and ``top1`` in percent."""

    variant: VariantReport
    cost: float
    top1: float


@dataclass(frozen=True)
class _Box:
    """A rectangle in points: its middle and its half sizes."""

    x: float
    y: float
    half_width: float
    half_height: float

    def meets(self, other: _Box) -> bool:
        return (
            abs(self.x - other.x) < self.half_width + other.half_width
            and abs(self.y - other.y) < self.half_height + other.half_height
        )


def accuracy_against_latency(report: Report) -> Plot | None:
    """Top-1 over the median latency of one image; None when neither was measured."""
    return _pareto(
        report,
        "Accuracy against latency",
        "median latency, ms",
        lambda variant: variant.latency.p50_ms if variant.latency else None,
    )


def accuracy_against_size(report: Report) -> Plot | None:
    """Top-1 over the size of all files of a variant; None without accuracies."""
    return _pareto(
        report,
        "Accuracy against size",
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
        _Point(variant, cost, 100 * variant.accuracy.top1)
        for variant in report.variants
        if variant.accuracy and (cost := cost_of(variant)) is not None
    ]
    if not points:
        return None
    beaten = dominated([(point.cost, point.top1) for point in points])
    figure, axes = new_figure(3.5)
    axes.axhline(100 * report.reference.top1, color=COLOURS["muted"], linestyle="--", linewidth=1)
    front = sorted((point.cost, point.top1) for point, is_beaten in zip(points, beaten, strict=True) if not is_beaten)
    axes.step(*zip(*front, strict=True), where="post", color=COLOURS["muted"], linewidth=1)
    for point, is_beaten in zip(points, beaten, strict=True):
        look = {"color": colour_of(point.variant), "markeredgecolor": COLOURS["page"], "markersize": 9}
        marker = marker_of(point.variant.precision)
        axes.plot(point.cost, point.top1, marker, alpha=_FADED if is_beaten else 1.0, **look)
    axes.set(xlabel=axis, ylabel="top-1, %", xlim=(0, 1.1 * max(point.cost for point in points)))
    least, most = min(point.top1 for point in points), max(point.top1 for point in points)
    room = 0.45 * max(most - least, _LEAST_SPAN)
    axes.set_ylim(least - room, most + room)
    add_legend(figure, [point.variant for point in points])
    _add_labels(figure, axes, points, beaten, reference_top1=report.reference.top1)
    best = "; ".join(
        f"{point.variant.id}: {point.cost:.2f}, {point.top1:.1f} %" + (" (beaten)" if is_beaten else "")
        for point, is_beaten in zip(points, beaten, strict=True)
    )
    text = (
        f"Better is up and to the left; faded: another one is as good in both and better in one. Dashed: the original. "
        f"{axis}, top-1: {best}."
    )
    return finished(title, text, figure)


def _add_labels(
    figure: Any, axes: Any, points: Sequence[_Point], beaten: Sequence[bool], *, reference_top1: float
) -> None:
    """The name of every point beside it where there is room, else farther away with a line to it."""
    figure.draw_without_rendering()  # the layout is settled, so that places are known
    scale = 72 / figure.dpi
    inside = axes.get_window_extent()
    frame = _Box(
        scale * (inside.x0 + inside.x1) / 2,
        scale * (inside.y0 + inside.y1) / 2,
        scale * inside.width / 2,
        scale * inside.height / 2,
    )
    places = [_pair(scale * axes.transData.transform((point.cost, point.top1))) for point in points]
    _, middle = scale * axes.transData.transform((0, 100 * reference_top1))
    front = sorted(place for place, is_beaten in zip(places, beaten, strict=True) if not is_beaten)
    taken = [
        *(_Box(x, y, _MARK, _MARK) for x, y in places),
        _Box(frame.x, middle, frame.half_width, _LINE),
        *_steps(front),
    ]
    order = sorted(range(len(points)), key=lambda index: beaten[index])
    for index in order:
        x, y = places[index]
        half_width = 0.29 * _FONT * len(points[index].variant.id)
        box = _free_place(x, y, half_width, frame, taken)
        taken.append(box)
        far = math.hypot(max(0.0, abs(box.x - x) - half_width), max(0.0, abs(box.y - y) - box.half_height)) > _CLOSE
        label = axes.annotate(
            points[index].variant.id,
            (points[index].cost, points[index].top1),
            xytext=(box.x - x, box.y - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=COLOURS["muted" if beaten[index] else "ink"],
            arrowprops={"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.6} if far else None,
        )
        label.set_in_layout(False)


def _pair(place: Any) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def _steps(front: Sequence[tuple[float, float]]) -> Iterator[_Box]:
    """The lines between the points of the front: across, then up."""
    for (x, y), (next_x, next_y) in pairwise(front):
        yield _Box((x + next_x) / 2, y, (next_x - x) / 2, _LINE)
        yield _Box(next_x, (y + next_y) / 2, _LINE, (next_y - y) / 2)


def _free_place(x: float, y: float, half_width: float, frame: _Box, taken: Sequence[_Box]) -> _Box:
    """The nearest place for a label of the point (x, y) that meets nothing; right of it when there is none."""
    half_height = 0.62 * _FONT
    for distance in (6, 9, 14, 20, 28, 37, 47, 58, 70, 85, 100):
        for eighth in (0, 4, 2, 6, 1, 7, 3, 5):
            angle = math.pi * eighth / 4
            box = _Box(
                x + math.cos(angle) * (distance + half_width),
                y + math.sin(angle) * (distance + half_height),
                half_width,
                half_height,
            )
            within = (
                abs(box.x - frame.x) + half_width <= frame.half_width
                and abs(box.y - frame.y) + half_height <= frame.half_height
            )
            if within and not any(box.meets(other) for other in taken):
                return box
    return _Box(x + 6 + half_width, y, half_width, half_height)
