"""How training went, epoch by epoch: losses, accuracy and learning rate, with its phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgetl.reports.plot_style import Plot, finished, literal
from edgetl.reports.svg import COLOURS, new_figure, page_style
from edgetl.tasks import task_of
from edgetl.verify.report import Report

__all__ = ["draw_training", "training_in_words"]

_LINES = {"training": ("onnx", "-"), "validation": ("tflite", "--")}
_OTHER_LINES = (("openvino", ":"), ("fourth", "-"), ("fifth", "--"), ("sixth", "-."), ("onnx", ":"), ("tflite", "-"))
_MOST_PHASES = 8


def draw_training(report: Report) -> list[Plot]:
    """The series that the training history has numbers of. Raises `MissingDependency` without matplotlib."""
    keys = dict.fromkeys(key for row in report.history for key, value in row.items() if _is_number(value))
    losses = [key for key in keys if "loss" in key]
    shares = [key for key in keys if "top1" in key or "accuracy" in key]
    rates = [key for key in keys if key == "lr" or key.endswith("_lr")]
    panels = [
        ("Loss by epoch", "loss of the training", losses, 1.0),
        ("Quality by epoch", f"{task_of(report.task).quality}, %", shares, 100.0),
        ("Learning rate by epoch", "learning rate", rates, 1.0),
    ]
    spent = list(dict.fromkeys(part for row in report.history for part in row.get("spent") or {}))
    parts = [
        {"epoch": row.get("epoch", i), **(row.get("spent") or {})} for i, row in enumerate(report.history, start=1)
    ]
    with page_style():
        drawn = [_draw(report.history, *panel) for panel in panels if panel[2]]
        return [*drawn, _draw(parts, "Time by epoch", "seconds", spent, 1.0)] if spent else drawn


def training_in_words(report: Report) -> str | None:
    """How many epochs there were, which one was kept, and how long it took; None without a history."""
    judged = [row for row in report.history if _is_number(row.get("val_top1")) and _is_number(row.get("val_loss"))]
    if not judged:
        return None
    best = max(judged, key=lambda row: (row["val_top1"], -row["val_loss"]))
    said = f"{len(report.history)} epochs; kept is epoch {best.get('epoch')} with {100 * best['val_top1']:.1f} %"
    last = report.history[-1].get("seconds")
    return f"{said}. {last:.0f} s of training." if _is_number(last) else f"{said}."


def _draw(history: Sequence[dict[str, Any]], title: str, axis: str, names: Sequence[str], scale: float) -> Plot:
    figure, axes = new_figure(2.6)
    epochs = [row.get("epoch", i) for i, row in enumerate(history, start=1)]
    said = []
    for place, name in enumerate(names):
        colour, line = _LINES.get(_in_words(name), _OTHER_LINES[place % len(_OTHER_LINES)])
        values = [scale * row[name] if _is_number(row.get(name)) else float("nan") for row in history]
        # A line through one epoch cannot be seen.
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, values, line, marker=marker, color=COLOURS[colour], label=literal(_in_words(name)))
        known = [value for value in values if value == value]
        said.append(f"{_in_words(name)} from {known[0]:.4g} to {known[-1]:.4g}")
    _mark_phases(axes, history, epochs)
    axes.set(xlabel="epoch", ylabel=axis, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(names) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(names), 3), fontsize=9)
    return finished(title, f"{len(epochs)} epochs; {'; '.join(said)}.", figure)


def _mark_phases(axes: Any, history: Sequence[dict[str, Any]], epochs: Sequence[int]) -> None:
    """A line where a phase begins, with its name above, when there are several."""
    names = [_phase_of(row) for row in history]
    starts = [
        (epoch, name)
        for place, (epoch, name) in enumerate(zip(epochs, names, strict=True))
        if name and (place == 0 or name != names[place - 1])
    ]
    if not 2 <= len(starts) <= _MOST_PHASES:
        return
    for place, (epoch, name) in enumerate(starts):
        at = epoch - 0.5
        if place:
            axes.axvline(at, color=COLOURS["muted"], linestyle="--", linewidth=0.8)
        where = {"xy": (at if place else epochs[0], 1.01), "xycoords": ("data", "axes fraction")}
        axes.annotate(literal(name), **where, va="bottom", fontsize=8, color=COLOURS["muted"])


def _phase_of(row: dict[str, Any]) -> str:
    """What was trained in an epoch, as far as it is known."""
    if row.get("phase") != "network":
        return str(row.get("phase") or "")
    stages = row.get("trained_stages")
    return "all layers" if stages is None else f"last {stages}"


def _in_words(name: str) -> str:
    return {
        "train_loss": "training",
        "val_loss": "validation",
        "val_top1": "validation",
        "train_top1": "training",
        "lr": "of the head",
    }.get(name, name)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
