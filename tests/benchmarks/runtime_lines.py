"""What a benchmark of the runtime found: lines of one table, each held against its target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgetl_runtime.errors import OutputError
from edgetl_runtime.machine import cpu_features, describe_machine

__all__ = ["CLOCKS", "Line", "compared", "heading", "in_rounds", "markdown_table", "measured", "saved", "write"]

CLOCKS: dict[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
"""Nanoseconds. "cpu" is what all threads of the process used: it holds, for one thread, on a machine that is busy."""

_COLUMNS = ("what", "unit", "by hand", "edgetl_runtime", "ratio", "half of the rounds", "target", "")


@dataclass(frozen=True)
class Line:
    """One comparison, or one measurement without a counterpart (``by_hand`` and ``ratio`` are None).

    ``ratio`` is that of the medians over all rounds; ``spread`` is where the middle half of the rounds lies, of their
    ratios or of the measurement. ``limit`` is what must not be exceeded, or with ``at_least`` what must be reached, by
    the ratio or, without one, by the measurement. None: nothing was promised.
    """

    what: str
    unit: str
    edgetl: float
    by_hand: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.limit is None:
            return None
        value = self.edgetl if self.ratio is None else self.ratio
        return value >= self.limit if self.at_least else value <= self.limit


def compared(
    what: str,
    unit: str,
    by_hand: Sequence[float],
    edgetl: Sequence[float],
    *,
    limit: float | None = None,
    at_least: bool = False,
) -> Line:
    """The line of two candidates that took turns: one value of each per round, in the order of the rounds."""
    base, ours = float(np.median(by_hand)), float(np.median(edgetl))
    low, high = np.quantile(np.divide(edgetl, by_hand), (0.25, 0.75))
    return Line(what, unit, ours, base, ours / base, (float(low), float(high)), limit, at_least)


def measured(what: str, unit: str, values: Sequence[float], *, limit: float | None = None) -> Line:
    """The line of something that has no counterpart, one value per round."""
    low, high = np.quantile(values, (0.25, 0.75))
    spread = (float(low), float(high)) if len(values) > 1 else None
    return Line(what, unit, float(np.median(values)), spread=spread, limit=limit)


def in_rounds(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, clock: Callable[[], int] = time.perf_counter_ns
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round: all take turns, and another one begins each time.

    A first round is not counted.
    """
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            before = clock()
            calls[name]()
            if number >= 0:
                found[name].append((clock() - before) / 1e6)
    return found


def heading(title: str, *, rounds: int, clock: str) -> str:
    """When and on what the numbers were found."""
    machine, flags = describe_machine(), cpu_features().flags or ()
    return (
        f"{title}. {datetime.now(UTC):%Y-%m-%d}, {machine['processor']}, {machine['cores']} cores ({' '.join(flags)}), "
        f"{machine['system']}, Python {machine['python']}; {rounds} rounds, {clock} time."
    )


def markdown_table(lines: Sequence[Line]) -> str:
    """The lines as one Markdown table; a dash stands for what there is not."""
    rows = [_row(_COLUMNS), _row(["---", "---", *["---:"] * 5, "---"])]
    for line in lines:
        sign = ">=" if line.at_least else "<="
        verdict = {None: "", True: "met", False: "**missed**"}[line.met]
        spread = "-" if line.spread is None else " to ".join(_number(value) for value in line.spread)
        target = "-" if line.limit is None else f"{sign} {line.limit:g}"
        cells = [line.what, line.unit, _number(line.by_hand), _number(line.edgetl), _number(line.ratio)]
        rows.append(_row([*cells, spread, target, verdict]))
    return "\n".join(rows)


def write(lines: Sequence[Line], title: str, *, markdown: Path | None, as_json: Path | None, **more: Any) -> None:
    """Print the table, and leave it where it was asked for. Raises `OutputError` when a file cannot be written."""
    text = f"{title}\n\n{markdown_table(lines)}\n"
    print(text, flush=True)
    found = {"heading": title, "lines": [{**asdict(line), "met": line.met} for line in lines], **more}
    saved(markdown, text)
    saved(as_json, json.dumps(found, indent=2) + "\n")


def saved(path: Path | None, content: str) -> None:
    """Write `content` there, if anywhere. Raises `OutputError` when it cannot be written."""
    if path is None:
        return
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", fix="choose another place") from error


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    """Three digits, so that a ratio, microseconds and kilobytes fit the same column."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
