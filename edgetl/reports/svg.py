"""matplotlib figures as SVG for a page: text stays text, colours are the page's CSS variables."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from edgetl_runtime.errors import MissingDependency
from edgetl_runtime.escaping import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "new_figure", "page_style", "svg_for_page"]

COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "grid": "#010205",
    "page": "#010206",
    "onnx": "#010207",
    "tflite": "#010208",
    "openvino": "#010209",
    "fourth": "#01020a",
    "fifth": "#01020b",
    "sixth": "#01020c",
}
"""Stand-ins to draw with; in the finished SVG each is the CSS variable of its name, so plots follow light and dark."""

_WIDTH = 5.0  # inches of 72 points: text keeps its size on a phone and grows a little on a desk
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgetl",  # the same report gives the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def page_style() -> AbstractContextManager[None]:
    """While it is entered, matplotlib draws for a page. Raises `MissingDependency` without matplotlib."""
    try:
        from matplotlib import rc_context
    except ImportError:
        raise MissingDependency("matplotlib", needed_for="the HTML report", extra="report") from None
    return rc_context(_STYLE)


def new_figure(height: float, *, columns: int = 1, rows: int | None = None) -> tuple[Figure, Any]:
    """A figure as wide as a phone and `height` inches high, and its axes: an array of them for several `columns`, or
    for `rows` above each other, which share both axes.

    It belongs to no window system, so nothing has to be closed and no display is needed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    if rows is not None:
        return figure, figure.subplots(rows, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    return figure, figure.subplots(1, columns)


def svg_for_page(figure: Figure, *, label: str) -> str:
    """`figure` as an ``<svg>`` element that scales to its place, with `label` for screen readers.

    matplotlib writes a file of its own: the prologue, namespaces, comments, metadata and style rules go, and ids get
    a prefix, because a page holds several plots.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = printable(buffer.getvalue(), keep="\n\t")
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    body = svg[svg.index(">", view_box.end()) + 1 :]
    for unwanted in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>"):
        body = re.sub(unwanted, "", body, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", label.partition(". ")[0].lower())
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    for name, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{name})")
    return f'<svg {view_box[0]} role="img" aria-label={quoteattr(printable(label))}>{body}'
