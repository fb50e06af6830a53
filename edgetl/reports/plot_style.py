"""How plots show variants: colours are targets, marks are precisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetl.reports.svg import COLOURS, svg_for_page
from edgetl.verify.report import VariantReport
from edgetl_runtime.escaping import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot", "add_legend", "colour_of", "finished", "literal", "marker_of"]

_MARKERS = {"fp32": "o", "fp16": "s"}
_MARKER_OF_QUANTISED = "^"


@dataclass(frozen=True)
class Plot:
    """``svg`` is an element of a page, ``title`` its heading; ``text`` says in words what it shows."""

    title: str
    text: str
    svg: str


def colour_of(variant: VariantReport) -> str:
    """The colour of the variant's target."""
    return COLOURS.get(variant.target, COLOURS["ink"])


def marker_of(precision: str) -> str:
    """matplotlib's sign for a precision."""
    return _MARKERS.get(precision, _MARKER_OF_QUANTISED)


def add_legend(figure: Figure, variants: Sequence[VariantReport], *, ring: bool = False) -> None:
    """A legend of the targets and precisions of `variants`, and of a ring for the original."""
    from matplotlib.lines import Line2D

    targets = dict.fromkeys((variant.target, colour_of(variant)) for variant in variants)
    precisions = dict.fromkeys(variant.precision for variant in variants)
    style: dict[str, Any] = {"linestyle": "", "markersize": 7}
    handles = [Line2D([], [], marker="o", color=colour, label=literal(name), **style) for name, colour in targets]
    handles += [
        Line2D([], [], marker=marker_of(name), color=COLOURS["muted"], label=literal(name), **style)
        for name in precisions
    ]
    if ring:
        handles.append(
            Line2D([], [], marker="o", color=COLOURS["ink"], markerfacecolor="none", label="original", **style)
        )
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        fontsize=8.5,
        handletextpad=0,
        columnspacing=0.7,
    )


def literal(text: str) -> str:
    """A label as it is: matplotlib reads what is between dollar signs as a formula."""
    return printable(text).replace("$", r"\$")


def finished(title: str, text: str, figure: Figure) -> Plot:
    """`figure` as a plot of a page; title and text are what a screen reader says."""
    return Plot(title, text, svg_for_page(figure, label=f"{title}. {text}"))
