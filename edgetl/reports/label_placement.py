"""Names beside the marks of a plot: each where it meets nothing, else farther away with a line to its mark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgetl.reports.plot_style import literal
from edgetl.reports.svg import COLOURS

__all__ = ["Mark", "add_labels"]

_FONT = 8.0
_MARK = 5.0  # points from the middle of a mark to its edge, and some air
_LINE = 1.0  # points; half of a line and some air
_CLOSE = 12.0  # points; a label farther away than this gets a line to its mark


@dataclass(frozen=True)
class Mark:
    """A mark at (``x``, ``y``) of the plot's data; without a ``name`` it only takes room. ``faded`` ones come last."""

    x: float
    y: float
    name: str
    faded: bool = False


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


def add_labels(
    figure: Any, axes: Any, marks: Sequence[Mark], *, front: Sequence[tuple[float, float]], level: float | None = None
) -> None:
    """Write the names of `marks`, clear of each other, of the steps through `front` and of the line at `level`."""
    figure.draw_without_rendering()  # the layout is settled, so that places are known
    scale = 72 / figure.dpi
    inside = axes.get_window_extent()
    frame = _Box(
        scale * (inside.x0 + inside.x1) / 2,
        scale * (inside.y0 + inside.y1) / 2,
        scale * inside.width / 2,
        scale * inside.height / 2,
    )

    def place_of(x: float, y: float) -> tuple[float, float]:
        place = scale * axes.transData.transform((x, y))
        return float(place[0]), float(place[1])

    places = [place_of(mark.x, mark.y) for mark in marks]
    taken = [*(_Box(x, y, _MARK, _MARK) for x, y in places), *_steps([place_of(x, y) for x, y in front])]
    if level is not None:
        taken.append(_Box(frame.x, place_of(0, level)[1], frame.half_width, _LINE))
    for mark, place in sorted(zip(marks, places, strict=True), key=lambda pair: pair[0].faded):
        if mark.name:
            taken.append(_write(axes, mark, place, frame, taken))


def _write(axes: Any, mark: Mark, place: tuple[float, float], frame: _Box, taken: Sequence[_Box]) -> _Box:
    """Write one name and return the room that it takes."""
    x, y = place
    half_width = 0.29 * _FONT * len(mark.name)
    box = _free_place(x, y, half_width, frame, taken)
    far = math.hypot(max(0.0, abs(box.x - x) - half_width), max(0.0, abs(box.y - y) - box.half_height)) > _CLOSE
    label = axes.annotate(
        literal(mark.name),
        (mark.x, mark.y),
        xytext=(box.x - x, box.y - y),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=_FONT,
        color=COLOURS["muted" if mark.faded else "ink"],
        arrowprops={"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.6} if far else None,
    )
    label.set_in_layout(False)
    return box


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
