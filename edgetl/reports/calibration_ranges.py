"""What calibration decided: the range of every activation, and the scales of the weights, as a bundle keeps them.

`edgetl_export.bundle_writer` leaves them in ``quantization.json``, one set for the variants that share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl.reports.plot_style import Plot, finished, literal
from edgetl.reports.svg import COLOURS, new_figure, page_style
from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import read_regular

__all__ = ["ActivationRange", "RangeSet", "draw_ranges", "read_ranges"]

_LARGEST = 256 * 2**20
_MOST_NAMES = 24
_MOST_WIDE = 3


@dataclass(frozen=True)
class ActivationRange:
    """The least and the greatest value that the grid of the graph's ``node`` holds; ``in_float``: it is not rounded."""

    node: str
    low: float
    high: float
    in_float: bool

    @property
    def width(self) -> float:
        """Distance of the ends."""
        return self.high - self.low


@dataclass(frozen=True)
class RangeSet:
    """One calibration: the ``variants`` written from it, how it came about, and what it gave.

    ``activations`` are in running order; what only moves values has the range of its source and is left out.
    ``scales`` are those of each weight, one per output channel. ``at_risk``: by variant, how many of its layers can
    outgrow 16 bits on CPUs without VNNI, and how many were looked at.
    """

    variants: tuple[str, ...]
    rung: str
    calibration: Mapping[str, Any]
    activations: tuple[ActivationRange, ...]
    scales: Mapping[str, tuple[float, ...]]
    at_risk: Mapping[str, tuple[int, int]]


def read_ranges(path: Path) -> tuple[RangeSet, ...]:
    """Read ``quantization.json`` at `path`; empty when there is none. Raises `BundleError` when it is damaged."""
    if not path.is_file():
        return ()
    try:
        raw = parse(read_regular(path, limit=_LARGEST))
        return tuple(map(_range_set, raw["quantizations"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path.name} is damaged: {error!r:.100}", fix="export the bundle again") from None


def draw_ranges(ranges: Iterable[RangeSet]) -> list[Plot]:
    """A plot of the activations of every set. Raises `MissingDependency` without matplotlib."""
    with page_style():
        return [_draw(found) for found in ranges if found.activations]


def _range_set(raw: Mapping[str, Any]) -> RangeSet:
    in_float = set(raw.get("in_float") or ())
    ranges: list[ActivationRange] = []
    for node, grid in raw["activations"].items():
        scale, zero_point = float(grid["scale"]), int(grid["zero_point"])
        found = ActivationRange(node, -zero_point * scale, (255 - zero_point) * scale, node in in_float)
        if not ranges or (ranges[-1].low, ranges[-1].high) != (found.low, found.high):
            ranges.append(found)
    return RangeSet(
        variants=tuple(raw["variants"]),
        rung=str(raw["rung"]),
        calibration=dict(raw["calibration"]),
        activations=tuple(ranges),
        scales={name: tuple(map(float, scales)) for name, scales in raw["weights"].items()},
        at_risk={
            variant: (sum(layer["can_saturate"] > 0 for layer in layers), len(layers))
            for variant, layers in (raw.get("saturation") or {}).items()
        },
    )


def _draw(found: RangeSet) -> Plot:
    shown = found.activations
    figure, axes = new_figure(3.6)
    for in_float, colour in ((False, "ink"), (True, "muted")):
        own = [(place, item) for place, item in enumerate(shown) if item.in_float == in_float]
        axes.vlines(
            [place for place, _ in own],
            [item.low for _, item in own],
            [item.high for _, item in own],
            color=COLOURS[colour],
            linewidth=max(1.0, 200 / len(shown)),
        )
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.02)
    step = -(-len(shown) // _MOST_NAMES)
    names = [literal(item.node) for item in shown[::step]]
    axes.set_xticks(range(0, len(shown), step), names, rotation=90, fontsize=7)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("range of the grid")
    return finished(f"Ranges of {', '.join(found.variants)}", _in_words(found), figure)


def _in_words(found: RangeSet) -> str:
    widest = sorted(found.activations, key=lambda item: -item.width)[:_MOST_WIDE]
    said = [f"{found.rung} on {found.calibration.get('n', 'an unknown number of')} images"]
    said += [f"widest: {', '.join(f'{item.node} {item.low:.3g} to {item.high:.3g}' for item in widest)}"]
    if found.scales:
        by_channel = sum(len(own) > 1 for own in found.scales.values())
        said += [f"{len(found.scales)} weights, {by_channel} of them with a scale for each output channel"]
    said += [
        f"{variant}: {risky} of {layers} layers can outgrow 16 bits on CPUs without VNNI"
        for variant, (risky, layers) in found.at_risk.items()
        if risky
    ]
    unrounded = sum(item.in_float for item in found.activations)
    said += [f"{unrounded} activations stay in float (grey)"] if unrounded else []
    return ". ".join(said) + "."
