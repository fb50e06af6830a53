"""The comparison of backbones for people: a table for a terminal, Markdown, and a page of one file with the plot."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl.models.image_size import size_text
from edgetl.reports.label_placement import Mark, add_labels
from edgetl.reports.markdown_text import escape, text_table
from edgetl.reports.page import render_page
from edgetl.reports.plot_style import Plot, finished, marker_of
from edgetl.reports.svg import COLOURS, new_figure, page_style
from edgetl.studies.backbone_results import BackboneResult, Comparison, MeasuredVariant
from edgetl_runtime.console import table
from edgetl_runtime.escaping import message

__all__ = [
    "conclusion_of",
    "draw_comparison",
    "render_comparison_markdown",
    "render_comparison_page",
    "render_comparison_terminal",
]

_COLOURS = ("onnx", "tflite", "openvino", "fourth", "fifth", "sixth")
_FADED = 0.35
_EMPTY = "-"


def render_comparison_terminal(comparison: Comparison) -> str:
    """A row for each backbone, those that failed, and the recommendation; no trailing newline."""
    headings = _headings(comparison)
    lines = table(headings, _rows(comparison), left=(0, len(headings) - 1))
    failed = [message(f"FAIL  {result.backbone}: {result.error}", indent=" " * 6) for result in comparison.failed]
    noise = [f"NOISE {text}" for text in comparison.disturbances]
    return "\n".join([_about(comparison), "", *lines, "", *failed, *noise, conclusion_of(comparison)])


def render_comparison_markdown(comparison: Comparison) -> str:
    """The same for a pull request or a notebook. Ends with a newline."""
    headings = _headings(comparison)
    failed = [f"- {escape(f'{result.backbone} failed: {result.error}')}" for result in comparison.failed]
    blocks = [
        f"## Backbones on {escape(comparison.data)}",
        escape(_about(comparison)),
        text_table(headings, _rows(comparison), left=(0, len(headings) - 1)),
        "\n".join(failed),
        f"**{escape(conclusion_of(comparison))}**",
        escape(_machine(comparison)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def render_comparison_page(comparison: Comparison) -> str:
    """The page, complete. Raises `MissingDependency` without jinja2 or matplotlib."""
    front, chosen = comparison.front, comparison.recommended
    return render_page(
        "backbone_comparison.html.j2",
        comparison=comparison,
        about=_about(comparison),
        conclusion=conclusion_of(comparison),
        machine=_machine(comparison),
        plot=draw_comparison(comparison) if comparison.timed else None,
        headings=_headings(comparison),
        rows=_rows(comparison),
        variants=[
            (*_variant_cells(variant), variant in front, variant == chosen)
            for result in comparison.backbones
            for variant in result.variants
        ],
    )


def draw_comparison(comparison: Comparison) -> Plot:
    """Top-1 over the latency side by side: a colour for each backbone, a mark for each precision.

    Raises `MissingDependency` without matplotlib.
    """
    front, chosen = comparison.front, comparison.recommended
    with page_style():
        figure, axes = new_figure(4.2)
        steps = [(variant.p50_ms or 0.0, 100 * (variant.top1 or 0.0)) for variant in front]
        axes.step(*zip(*steps, strict=True), where="post", color=COLOURS["muted"], linewidth=1)
        marks = []
        colours = _colours(comparison)
        for variant in comparison.timed:
            x, y, on_front = variant.p50_ms or 0.0, 100 * (variant.top1 or 0.0), variant in front
            look = {"color": colours[variant.backbone], "markeredgecolor": COLOURS["page"], "markersize": 9}
            axes.plot(x, y, marker_of(variant.precision), alpha=1.0 if on_front else _FADED, **look)
            if variant == chosen:
                ring = {"markerfacecolor": "none", "markeredgecolor": COLOURS["ink"], "markersize": 15}
                axes.plot(x, y, "o", **ring)
            marks.append(Mark(x, y, variant.name if on_front else "", faded=not on_front))
        axes.set(xlabel="median latency, ms", ylabel=f"{comparison.quality}, %")
        axes.set_xlim(0, 1.1 * max(mark.x for mark in marks))
        axes.margins(y=0.15)
        _add_legend(figure, comparison)
        add_labels(figure, axes, marks, front=steps)
        points = "; ".join(
            f"{variant.name}: {variant.p50_ms:.2f} ms, {100 * (variant.top1 or 0):.1f} %" for variant in front
        )
        return finished(
            f"{comparison.quality} against latency", f"On the front: {points}. {conclusion_of(comparison)}", figure
        )


def conclusion_of(comparison: Comparison) -> str:
    """The recommendation in a sentence."""
    chosen = comparison.recommended
    if chosen is None:
        return "No variant passed its gate, so none is recommended."
    best = max((variant for variant in comparison.timed if variant.passed), key=lambda variant: variant.top1 or 0.0)
    recommendation = f"Take {chosen.name}: {100 * (chosen.top1 or 0):.1f} % at {chosen.p50_ms:.2f} ms"
    if best.top1 == chosen.top1:
        return f"{recommendation}, the fastest of the most accurate."
    return (
        f"{recommendation}, the fastest within {100 * comparison.within:g} points of the best "
        f"({best.name}, {100 * (best.top1 or 0):.1f} % at {best.p50_ms:.2f} ms)."
    )


def _colours(comparison: Comparison) -> dict[str, str]:
    return {
        result.backbone: COLOURS[_COLOURS[place % len(_COLOURS)]] for place, result in enumerate(comparison.backbones)
    }


def _add_legend(figure: object, comparison: Comparison) -> None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    assert isinstance(figure, Figure)
    shown = {variant.backbone for variant in comparison.timed}
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=colour, label=name)
        for name, colour in _colours(comparison).items()
        if name in shown
    ]
    handles += [
        Line2D([], [], linestyle="", marker=marker_of(name), markersize=7, color=COLOURS["muted"], label=name)
        for name in dict.fromkeys(variant.precision for variant in comparison.timed)
    ]
    style = {"fontsize": 8.5, "handletextpad": 0, "columnspacing": 0.7}
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), **style)


def _about(comparison: Comparison) -> str:
    return (
        f"{comparison.data}: {len(comparison.backbones)} backbones, judged on {comparison.held_out} photos "
        f"({comparison.split}), one of which is {100 / comparison.held_out:.2g} points"
    )


def _machine(comparison: Comparison) -> str:
    machine = comparison.machine
    return (
        f"Timed in turns on {machine['processor']}, {machine['cores']} cores, threads of a run: {comparison.threads}."
    )


def _targets(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(variant.target for result in comparison.backbones for variant in result.variants))


def _headings(comparison: Comparison) -> tuple[str, ...]:
    times = [f"{target} ms" for target in _targets(comparison)]
    return ("backbone", "params M", "MMACs", "px", "original %", "best int8 %", *times, "int8 MB", "starts from")


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [_row(result, _targets(comparison)) for result in comparison.backbones]


def _row(result: BackboneResult, targets: Sequence[str]) -> tuple[str, ...]:
    starts = f"{result.weights}, {result.strategy}"
    if result.error is not None:
        return (result.backbone, *[_EMPTY] * 3, "failed", *[_EMPTY] * (len(targets) + 2), starts)
    int8 = _best_int8(result)
    return (
        result.backbone,
        _EMPTY if result.params is None else f"{result.params / 1e6:.2f}",
        _EMPTY if result.macs is None else f"{result.macs / 1e6:.0f}",
        _EMPTY if result.image_size is None else size_text(result.image_size),
        _EMPTY if result.top1 is None else f"{100 * result.top1:.1f}",
        _EMPTY if int8 is None or int8.top1 is None else f"{100 * int8.top1:.1f}",
        *(_fastest(result, target) for target in targets),
        _EMPTY if int8 is None or int8.bytes is None else f"{int8.bytes / 1e6:.2f}",
        starts,
    )


def _best_int8(result: BackboneResult) -> MeasuredVariant | None:
    """The most accurate integer variant, of equally accurate ones the fastest."""
    integer = [variant for variant in result.variants if variant.precision == "int8" and variant.top1 is not None]
    return max(integer, key=lambda variant: (variant.top1 or 0.0, -(variant.p50_ms or float("inf"))), default=None)


def _fastest(result: BackboneResult, target: str) -> str:
    timed = [v for v in result.variants if v.target == target and v.p50_ms is not None and v.passed]
    if not timed:
        return _EMPTY
    fastest = min(timed, key=lambda variant: variant.p50_ms or 0.0)
    return f"{fastest.p50_ms:.2f} {fastest.precision}"


def _variant_cells(variant: MeasuredVariant) -> tuple[str, ...]:
    return (
        variant.name,
        _EMPTY if variant.top1 is None else f"{100 * variant.top1:.1f}",
        _EMPTY if variant.delta is None else f"{100 * variant.delta:+.1f}",
        _EMPTY if variant.p50_ms is None else f"{variant.p50_ms:.2f}",
        _EMPTY if variant.p50_ci95 is None else f"{variant.p50_ci95[0]:.2f} to {variant.p50_ci95[1]:.2f}",
        _EMPTY if variant.bytes is None else f"{variant.bytes / 1e6:.2f}",
        "pass" if variant.passed else "FAIL",
    )
