"""Logits, decisions and speed of int8 files, and the table that they end up in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgetl.verify.measure.parity import compare
from edgetl_runtime.session import Session
from edgetl_runtime.timing import measure

__all__ = ["Logits", "Row", "interleaved_medians", "judged", "logits_of", "markdown_table", "median_ms"]

Key = TypeVar("Key")
Logits = npt.NDArray[np.float32]

ROUNDS = 15
SECONDS_PER_ROUND = 0.15
_COLUMNS = ("model", "file", "top-1 %", "agreement %", "SQNR dB", "times as fast", "seconds", "MB")


@dataclass(frozen=True)
class Row:
    """A line of the table. Shares are 0..1; what was not measured is ``None``.

    ``speed`` is the fp32 time over this model's, in the same engine; ``seconds`` are those to calibrate, quantise and
    write; ``bytes`` is the size of all files of the model. ``failed`` says why there is no model.
    """

    model: str
    file: str
    top1: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    speed: float | None = None
    seconds: float | None = None
    bytes: int | None = None
    failed: str | None = None


def logits_of(session: Session, images: npt.NDArray[np.uint8]) -> Logits:
    """(n, classes) float32 for uint8 (n, H, W, 3), one image at a time."""
    name, output = session.inputs[0].name, session.outputs[0].name
    # Engines may hand out a view of memory that the next run overwrites.
    return np.stack([session.run({name: image[None]})[output][0].copy() for image in images])


def judged(row: Row, reference: Logits, logits: Logits, kinds: npt.NDArray[np.int64] | None = None) -> Row:
    """`row` with agreement and SQNR against `reference`, and top-1 against the labels `kinds` (n,) when given."""
    parity = compare(reference, logits)
    top1 = None if kinds is None else float((logits.argmax(axis=1) == kinds).mean())
    return replace(row, top1=top1, agreement=parity.top1_agreement, sqnr_db=parity.sqnr_db)


def median_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of `call` over one short round, warm-up not counted."""
    return measure(call, seconds=SECONDS_PER_ROUND, min_n=5, warmup=2).p50_ms


def interleaved_medians(
    calls: Mapping[Key, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    one_round: Callable[[Callable[[], object]], float] = median_ms,
) -> dict[Key, float]:
    """Median over `rounds` of the median of each call, in milliseconds; ``one_round`` measures one call once.

    All calls take turns in every round, and another one begins each time: a machine that slows down for a while slows
    all of them alike, so their ratios hold where their times do not.
    """
    names = list(calls)
    times: dict[Key, list[float]] = {name: [] for name in names}
    for start in range(rounds):
        first = start % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(one_round(calls[name]))
    return {name: float(np.median(values)) for name, values in times.items()}


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as one Markdown table; what was not measured is a dash."""
    lines = [_line(_COLUMNS), _line(["---", "---", *["---:"] * (len(_COLUMNS) - 2)])]
    for row in rows:
        name = row.model if row.failed is None else f"{row.model} - failed: {row.failed}"
        lines.append(
            _line(
                [
                    name.replace("|", "/"),
                    row.file,
                    _number(row.top1, 1, 100.0),
                    _number(row.agreement, 1, 100.0),
                    _number(row.sqnr_db, 1),
                    _number(row.speed, 2),
                    _number(row.seconds, 1),
                    _number(row.bytes, 2, 1e-6),
                ]
            )
        )
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"
