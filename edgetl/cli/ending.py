"""The end of ``edgetl run`` and ``edgetl export``: what was written, what of it a device needs, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl.cli.progress import say
from edgetl.verify.report import Report
from edgetl_runtime.console import out, size, table
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Manifest

if TYPE_CHECKING:
    from edgetl.verify.bundle import Outcome

__all__ = ["best_variant", "conclude", "file_lines", "next_after_export", "next_after_run"]

_SMALLEST_FIRST = ("int8", "w8a16", "dynamic", "w8", "fp16", "fp32")


def file_lines(bundle: Path, manifest: Manifest) -> list[str]:
    """Path and size of every model file, and of the folder."""
    rows = [
        (variant.id if not place else "", size(file.bytes), str(bundle / file.path))
        for variant in manifest.variants
        for place, file in enumerate(variant.files)
    ]
    everything = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    lines = table(("variant", "size", "file"), rows, left=(0, 2))
    return [*lines, f"{printable(str(bundle))}: {size(everything)} with checkpoint, photos and report"]


def best_variant(report: Report) -> str | None:
    """The variant to copy to a device when nobody has tried them there: the fastest here that passed, else None."""
    failed = {check.variant for check in report.verdict.failed}
    timed = [(entry.latency.p50_ms, entry.id) for entry in report.variants if entry.latency and entry.id not in failed]
    return min(timed)[1] if timed else None


def next_after_run(bundle: Path, report: Report, *, made_for: str | None = None) -> list[str]:
    """What to copy, and the next command. Where it is `made_for` something, this machine's times say little."""
    failed = {check.variant for check in report.verdict.failed}
    passed = [entry.id for entry in report.variants if entry.error is None and entry.id not in failed]
    best = best_variant(report)
    if best is None or not passed:
        return [f"no variant passed; where they go wrong: edgetl inspect {_word(bundle)} --layers"]
    if made_for is not None:
        best = _smallest(passed)
        return [f"{best} is the first choice for {made_for} of those that passed", *_packing(bundle, best)]
    return [f"{best} is the fastest here of those that passed", *_packing(bundle, best)]


def next_after_export(bundle: Path, manifest: Manifest) -> list[str]:
    """The same where nothing is verified yet."""
    best = _smallest([variant.id for variant in manifest.variants])
    return [
        f"not verified yet: edgetl verify {_word(bundle)} --data FOLDER --record",
        *_packing(bundle, best),
    ]


def _smallest(ids: Sequence[str]) -> str:
    """The variant of the smallest numbers, of the format that was named first."""
    return min(ids, key=lambda id_: _rank(id_.partition(".")[2]))


def _packing(bundle: Path, variant_id: str) -> list[str]:
    packed = bundle.with_name(f"{bundle.stem}-{variant_id.replace('.', '-')}.edgetl")
    return [
        "next, one file to copy to a device:",
        f"  edgetl pack {_word(bundle)} --variants {variant_id} --out {_word(packed)}",
        f"and there, with {_needs(variant_id)}:",
        f"  edgetl-run self-test {_word(Path(packed.name))}",
        f"  edgetl-run predict {_word(Path(packed.name))} PHOTO.jpg",
    ]


def _needs(variant_id: str) -> str:
    target = variant_id.partition(".")[0]
    return f'pip install "edgetl-runtime[{target}]"'


def _word(path: Path) -> str:
    """A path as a shell takes it, and as a screen does."""
    return printable(shlex.quote(str(path)))


def _rank(precision: str) -> int:
    return _SMALLEST_FIRST.index(precision) if precision in _SMALLEST_FIRST else len(_SMALLEST_FIRST)


def conclude(outcome: Outcome, *, json: Path | None, recorded: bool = True, made_for: str | None = None) -> int:
    """Show the report, write it where it is wanted, and turn its verdict into an exit code.

    `recorded`: the bundle holds it too; what comes next is said then, and `made_for` is what it is for.
    """
    from edgetl.reports.terminal import render_terminal
    from edgetl.reports.writing import ReportFiles, write_report
    from edgetl_runtime.bundle import open_bundle

    write_report(outcome.report, ReportFiles(json=json))
    for note in outcome.notes:
        say(note)
    out(render_terminal(outcome.report))
    for variant_id, reason in outcome.over_budget.items():
        say(f"FAIL  {variant_id}: {reason}")
    if recorded:
        out("")
        out("\n".join(file_lines(outcome.bundle, open_bundle(outcome.bundle).manifest)))
        say(f"report: {outcome.bundle / 'report.html'}")
        for line in next_after_run(outcome.bundle, outcome.report, made_for=made_for):
            say(line)
    return 0 if outcome.report.verdict.passed and not outcome.over_budget else 1
