"""Precision over recall as a drawing, one line for each label."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from edgetl.tasks.detection.precision import RECALLS, LabelRows
from edgetl_runtime.drawing import colour_of

__all__ = ["precision_recall"]

_WIDE, _HIGH, _LEFT, _TOP = 560, 300, 44, 12
_PLOT_WIDE, _PLOT_HIGH = 340, 240
_MOST_LABELS = 10


def precision_recall(rows: Sequence[LabelRows], labels: Sequence[str]) -> str | None:
    """A data URI of an SVG: at an overlap of 0.5, the labels with most objects; None where there is none."""
    found = [(label, int(row.objects[:, 0].sum()), row.precision()) for label, row in zip(labels, rows, strict=True)]
    known = [(place, label, n, curve[0]) for place, (label, n, curve) in enumerate(found) if curve is not None]
    if not known:
        return None
    shown = sorted(known, key=lambda item: -item[2])[:_MOST_LABELS]
    parts = [_frame()]
    for line, (place, label, n, curve) in enumerate(shown):
        colour = "rgb({},{},{})".format(*colour_of(place))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{_points(curve)}"/>')
        y = _TOP + 16 + 20 * line
        x = _LEFT + _PLOT_WIDE + 16
        parts.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{escape(label[:16])} {curve.mean():.1%} ({n})</text>')
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}" '
        f'font-family="sans-serif" font-size="12" fill="#333"><rect width="{_WIDE}" height="{_HIGH}" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _points(curve: npt.NDArray[np.float64]) -> str:
    x, y = _LEFT + RECALLS * _PLOT_WIDE, _TOP + (1 - curve) * _PLOT_HIGH
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _frame() -> str:
    lines = []
    for step in range(6):
        share, x, y = step / 5, _LEFT + step / 5 * _PLOT_WIDE, _TOP + (1 - step / 5) * _PLOT_HIGH
        lines.append(f'<path d="M{x:.0f} {_TOP}V{_TOP + _PLOT_HIGH}M{_LEFT} {y:.0f}H{_LEFT + _PLOT_WIDE}" '
                     'stroke="#ddd" fill="none"/>')  # fmt: skip
        lines.append(f'<text x="{x:.0f}" y="{_TOP + _PLOT_HIGH + 16}" text-anchor="middle">{share:.1f}</text>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{share:.1f}</text>')
    middle = _LEFT + _PLOT_WIDE // 2
    lines.append(f'<text x="{middle}" y="{_HIGH - 8}" text-anchor="middle">recall</text>')
    side = f"translate(13 {_TOP + _PLOT_HIGH // 2}) rotate(-90)"
    lines.append(f'<text transform="{side}" text-anchor="middle">precision</text>')
    return "".join(lines)
