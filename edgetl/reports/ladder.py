"""How int8 came about: the rung that each variant needed, what every rung gave, and what surgery cost, as text.

It is read from the report's provenance, where the export left it: ``ladder`` is a list of rungs as
`edgetl_export.ladder.Rung` has them, ``methods`` is by variant id, ``surgery`` as `edgetl_export.relearn` tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetl.verify.report import Report
from edgetl_export.changes import drop_in_words

__all__ = [
    "PROVENANCE",
    "Attempt",
    "Cell",
    "attempts",
    "how_int8_was_made",
    "ladder_variants",
    "method_of",
    "surgery_line",
]

PROVENANCE = ("ladder", "methods", "surgery")
"""Keys of the provenance that are shown here and nowhere else."""


@dataclass(frozen=True)
class Cell:
    """What an attempt gave for one variant; ``kept`` says whether the variant was taken from it."""

    text: str
    kept: bool


@dataclass(frozen=True)
class Attempt:
    """One way to quantise that was tried: its rung, what there is to say of it, a cell for each of `ladder_variants`.

    A cell is None where the variant had been settled before, or could not be written.
    """

    rung: str
    note: str
    cells: tuple[Cell | None, ...]


def ladder_variants(report: Report) -> tuple[str, ...]:
    """Variants that the ladder was climbed for, in the order they were tried; empty when it was not."""
    return tuple(dict.fromkeys(rung["variant"] for rung in _rungs(report)))


def attempts(report: Report) -> list[Attempt]:
    """Everything that was tried, in that order: a row of the table of rungs by variants."""
    found: dict[tuple[str, str, int], dict[str, Cell]] = {}
    for rung in _rungs(report):
        again = 0
        while rung["variant"] in found.get((rung["rung"], rung["note"], again), {}):
            again += 1
        row = found.setdefault((rung["rung"], rung["note"], again), {})
        row[rung["variant"]] = Cell(_gave(rung), bool(rung["kept"]))
    variants = ladder_variants(report)
    return [
        Attempt(rung, note, tuple(row.get(variant) for variant in variants)) for (rung, note, _), row in found.items()
    ]


def how_int8_was_made(report: Report) -> list[str]:
    """A line for every int8 variant: the rung it was taken from and what that gave, or just its method.

    Variants whose precision says it all (``w8``, ``dynamic``) have none.
    """
    kept = {rung["variant"]: rung for rung in _rungs(report) if rung["kept"]}
    lines = []
    for variant in dict.fromkeys([*_methods(report), *kept]):
        rung = kept.get(variant)
        if rung is None:
            method = _methods(report)[variant]
            lines += [f"{variant} {method}"] if variant.endswith(".int8") else []
        else:
            note = f" ({rung['note']})" if rung["note"] else ""
            lines.append(f"{variant} {rung['rung']}{note}: {_gave(rung)}")
    return lines


def method_of(variant: str, report: Report) -> str | None:
    """How a variant was quantised: a rung, or ``dynamic`` and the like. None for floats, or when it is not recorded."""
    return _methods(report).get(variant)


def surgery_line(report: Report) -> str | None:
    """What was replaced before the export and how near the network came again; None when nothing was."""
    facts = report.provenance.get("surgery")
    if not isinstance(facts, Mapping):
        return None
    replaced = facts.get("replaced")
    what = ", ".join(f"{n} {name}" for name, n in replaced.items()) if isinstance(replaced, Mapping) else "modules"
    told = [
        f"{name} {facts[key]:.4g}{unit}"
        for key, name, unit in (
            ("sqnr_db", "SQNR before training", " dB"),
            ("loss", "loss after it", ""),
            ("epochs", "epochs", ""),
            ("seconds", "seconds", ""),
        )
        if isinstance(facts.get(key), (int, float))
    ]
    return f"surgery replaced {what}" + (f" ({', '.join(told)})" if told else "")


def _rungs(report: Report) -> Sequence[Mapping[str, Any]]:
    """The rungs that are whole: a report may come from another edgetl."""
    ladder = report.provenance.get("ladder")
    if not isinstance(ladder, (list, tuple)):
        return []
    number = (int, float)
    wanted: dict[str, tuple[type, ...]] = {
        "variant": (str,),
        "rung": (str,),
        "drop": number,
        "sqnr_db": number,
        "n": (int,),
    }
    return [
        {"kept": False, **rung, "note": str(rung.get("note") or "")}
        for rung in ladder
        if isinstance(rung, Mapping) and all(isinstance(rung.get(key), kind) for key, kind in wanted.items())
    ]


def _methods(report: Report) -> dict[str, str]:
    methods = report.provenance.get("methods")
    return {str(key): str(value) for key, value in methods.items()} if isinstance(methods, Mapping) else {}


def _gave(rung: Mapping[str, Any]) -> str:
    return f"{drop_in_words(rung['drop'], rung['n'])}, {rung['sqnr_db']:.1f} dB"
