"""The learning curve for people: a table for a terminal, and a page of one file with the plot."""

from __future__ import annotations

from edgetl.models.image_size import size_text
from edgetl.reports.page import render_page
from edgetl.reports.plot_style import Plot, finished
from edgetl.reports.svg import COLOURS, new_figure, page_style
from edgetl.studies.learning_curve import SCRATCH, TRANSFER, CurveMean, LearningCurve
from edgetl.verify.measure.machine import describe_workbench
from edgetl_runtime.console import table

__all__ = ["draw_curve", "render_curve_page", "render_curve_terminal"]

_NAMES = {TRANSFER: "transfer", SCRATCH: "from scratch"}
_LINES = {TRANSFER: ("onnx", "o-"), SCRATCH: ("tflite", "s--")}


def render_curve_terminal(curve: LearningCurve) -> str:
    """A row for each size, then what it says; no trailing newline."""
    head = f"{curve.data}: {curve.backbone}, judged on {curve.held_out} photos ({curve.split})"
    lines = table(("photos", *_headings(curve)), _rows(curve), left=())
    return "\n".join([head, "", *lines, "", *curve.conclusions()])


def render_curve_page(curve: LearningCurve) -> str:
    """The page, complete. Raises `MissingDependency` without jinja2 or matplotlib."""
    return render_page(
        "learning_curve.html.j2",
        curve=curve,
        plot=draw_curve(curve),
        headings=_headings(curve),
        rows=_rows(curve),
        conclusions=curve.conclusions(),
        seconds=sum(point.seconds for point in curve.points),
        machine=describe_workbench(),
        size_text=size_text,
    )


def draw_curve(curve: LearningCurve) -> Plot:
    """Mean top-1 over the number of photos, doublings evenly spaced; bars are the standard deviation over seeds.

    Raises `MissingDependency` without matplotlib.
    """
    with page_style():
        figure, axes = new_figure(3.4)
        spoken = []
        for start in _shown(curve):
            means = curve.means(start)
            colour, line = _LINES[start]
            axes.errorbar(
                [mean.n for mean in means],
                [100 * mean.top1 for mean in means],
                yerr=[100 * (mean.std or 0.0) for mean in means],
                fmt=line,
                color=COLOURS[colour],
                markersize=5,
                capsize=3,
                label=_NAMES[start],
            )
            points = "; ".join(f"{mean.n} photos {100 * mean.top1:.1f} %" for mean in means)
            spoken.append(f"{_NAMES[start]}: {points}")
        sizes = sorted({point.n for point in curve.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="training photos", ylabel=f"{curve.quality}, %")
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)
        return finished(f"{curve.quality} against training photos", f"{'. '.join(spoken)}.", figure)


def _shown(curve: LearningCurve) -> list[str]:
    return [start for start in (TRANSFER, SCRATCH) if curve.means(start)]


def _headings(curve: LearningCurve) -> tuple[str, ...]:
    return tuple(f"{_NAMES[start]} %" for start in _shown(curve))


def _rows(curve: LearningCurve) -> list[tuple[str, ...]]:
    """The number of photos and a cell for each start, ascending."""
    by_start = {start: {mean.n: mean for mean in curve.means(start)} for start in _shown(curve)}
    sizes = sorted({point.n for point in curve.points})
    return [(str(size), *(_cell(by_start[start].get(size)) for start in by_start)) for size in sizes]


def _cell(mean: CurveMean | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean.top1:.1f}" + ("" if mean.std is None else f" ± {100 * mean.std:.1f}")
