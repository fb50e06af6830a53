"""A gate proposed from a report: what the variants reach today, less a margin, rounded to what a person would write.

| quantity | limit |
|---|---|
| ``top1_agreement`` | one point (0.01) below, rounded down to half a point |
| ``sqnr_db`` | 3 dB below, whole dB, at most 80: beyond that only the order of float32 sums differs between machines |
| ``features_sqnr_db`` | the same, where there are features |
| ``delta`` | one point below the lower of 0 and the value, rounded down to half a point |
| ``class_delta`` | five points below the lower of 0 and the value, rounded down to half a point |
| ``p50_ratio`` | 15 % above (`regression.LATENCY_MARGIN`) the upper end of its interval, rounded up to two digits |
| ``bytes`` | 2 % above, rounded up to three digits |
| ``peak_rss_bytes`` | 15 % above, rounded up to two digits; only where it was measured |
| ``cold_start_ms`` | 50 % above, rounded up to two digits; only where it was measured |

No limit is tighter than what `edgetl.verify.gate.regression` lets pass between a report and its baseline. So on few
photos those on decisions are wider: four more images that are lost may be chance. Times are wider by what the process
waited for a core while it was measured. Both are said. A limit that would make no sense is left out, which is said too.

Milliseconds are left out: they belong to one machine. A variant that failed gets no limits, so that what is broken
does not become the measure; the built-in limits stay with it. The same goes for variants that were not measured, which
are named. So the proposed gate passes on the report that it was
made from wherever that report passed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.stats import is_significant, mcnemar_worse, share_below
from edgetl.tasks import task_of
from edgetl.verify.gate.limits import read_gate
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.gate.regression import PEAK_MARGIN, latency_limit
from edgetl.verify.report import Report, VariantReport
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.writing import write_file

__all__ = ["Proposal", "check_gate_path", "propose_gate", "write_gate"]

_MOST_SQNR = 80.0
_FEW_IMAGES = 200
_FEW_OF_A_LABEL = 10
_WORTH_A_LINE = 0.02
"""Share of the time in which the process waited for a core."""
_UNNOTICED = next(n - 1 for n in itertools.count(1) if is_significant(mcnemar_worse(n, 0)))
"""So many images may be lost, and none won, before that is more than chance: 4."""


@dataclass(frozen=True)
class Proposal:
    """A gate as TOML, and ``notes`` on what makes its limits wider than they could be; they stand in the TOML too."""

    text: str
    notes: tuple[str, ...] = ()


def check_gate_path(path: Path, *, force: bool) -> None:
    """`OutputError` when there is a file already and not `force`: limits that somebody chose are not lost."""
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", fix="choose another --write-gate, or --force to replace it")


def write_gate(report: Report, path: Path, *, force: bool = False) -> Proposal:
    """Write `propose_gate` to `path`; a note more says whose limits stood there and are gone. Raises `OutputError`."""
    check_gate_path(path, force=force)
    lost = _limited(path) - {variant.id for variant in report.variants} if path.exists() else set()
    proposal = propose_gate(report)
    write_file(path, proposal.text)
    if not lost:
        return proposal
    gone = f"{path} had limits for {', '.join(sorted(lost))}, and they are gone: --force replaced all of it"
    return replace(proposal, notes=(*proposal.notes, gone))


def _limited(path: Path) -> set[str]:
    """The variants that the gate at `path` has limits for; none when it is no gate."""
    try:
        return set(read_gate(path).variant)
    except UsageError:
        return set()


def propose_gate(report: Report) -> Proposal:
    """The gate as TOML, a section for each variant that passed."""
    failed = {check.variant for check in report.verdict.failed}
    references = [variant.latency.reference for variant in report.variants if variant.latency is not None]
    reference = next((name for name in references if name is not None), None)
    notes = [*_about_part(report), *_about_photos(report), *_about_machine(report)]
    lines = [f'reference = "{reference}"'] if reference is not None else []
    for variant in report.variants:
        if variant.id in failed:
            lines += ["", f"# {variant.id} failed: the built-in limits stay."]
            continue
        lines += ["", f'[variant."{variant.id}"]']
        for name, limit in _limits(variant, report).items():
            try:
                QUANTITIES[name].range.check(name, limit)
            except UsageError:
                notes.append(f"{variant.id}: no limit on {name} is proposed: {_written(limit)} would make no sense")
            else:
                lines.append(f"{name} = {_written(limit)}")
    head = [
        f"Proposed by edgetl verify --write-gate from {report.bundle} on {report.data.n} images, {report.created}.",
        "What was measured less a margin; change what you know better.",
        *(f"Note: {note}." for note in notes),
    ]
    # A comment ends with its line, whatever the bundle is called.
    comments = ["# " + "".join(letter if letter.isprintable() else "?" for letter in line) for line in head]
    return Proposal("\n".join([*comments, *lines]) + "\n", tuple(notes))


def _about_part(report: Report) -> list[str]:
    if not report.left_out:
        return []
    return [f"not measured, the built-in limits stay: {', '.join(report.left_out)}"]


def _about_photos(report: Report) -> list[str]:
    """That there are few, of all or of a label."""
    judges_labels = report.reference is not None  # by top-1, for which each label needs photos of its own
    counts = {} if report.reference is None else {id_: part.n for id_, part in report.reference.per_class.items()}
    rarest = min(report.labels or counts, key=lambda label: counts.get(label, 0), default=None)
    fewest = report.data.n if rarest is None or not judges_labels else counts.get(rarest, 0)
    if report.data.n >= _FEW_IMAGES and fewest >= _FEW_OF_A_LABEL:
        return []
    of_a_label = f"{fewest} of the label that has fewest" if fewest else "none of some labels"
    of_a_label = f", and {of_a_label}" if judges_labels else ""
    return [
        f"few photos: {report.data.n}{of_a_label}. Limits on decisions are as wide as chance is with so few; "
        f"{_FEW_IMAGES} photos, {_FEW_OF_A_LABEL} of each label, make them tighter"
    ]


def _about_machine(report: Report) -> list[str]:
    """What disturbed it, and by how much times are wider."""
    waits = [
        part.waited or 0.0
        for variant in report.variants
        for part in (variant.latency, variant.memory)
        if part is not None
    ]
    waited = max(waits, default=0.0)
    if waited <= _WORTH_A_LINE and not report.disturbances:
        return []
    told = "; ".join(report.disturbances) or "other programs had the cores"
    wider = f"limits on times are up to {1 / (1 - waited) - 1:.0%} wider for it" if waited > _WORTH_A_LINE else ""
    return [f"the machine was disturbed: {told}. Write the gate again on a quiet one" + (f"; {wider}" if wider else "")]


def _limits(variant: VariantReport, report: Report) -> dict[str, float]:
    def value(name: str) -> float | None:
        return QUANTITIES[name].read(variant)

    found: dict[str, float] = {}
    if variant.parity is not None:
        found[task_of(report.task).agreement] = _least_agreement(variant.parity.decided_alike, variant.parity.n)
    for name in ("sqnr_db", "features_sqnr_db"):
        decibels = value(name)
        if decibels is not None:
            found[name] = min(_MOST_SQNR, _down(decibels - 3, 1.0))
    for name, margin, images in (("delta", 0.01, report.data.n), ("class_delta", 0.05, _fewest(variant))):
        drop = value(name)
        if drop is not None:
            found[name] = _down(min(0.0, drop) - max(margin, _UNNOTICED / images), 0.005)
    latency, memory = variant.latency, variant.memory
    if latency is not None and latency.ratio is not None and latency.reference != variant.id:
        found["p50_ratio"] = _up(latency_limit(latency, latency.ratio), 2)
    if variant.bytes is not None:
        found["bytes"] = _up(variant.bytes * 1.02, 3)
    if memory is not None:
        found["peak_rss_bytes"] = _up(memory.peak_rss_bytes * PEAK_MARGIN, 2)
        if memory.cold_start_ms is not None:
            found["cold_start_ms"] = _up(memory.cold_start_ms * 1.5 / (1 - (memory.waited or 0.0)), 2)
    return found


def _least_agreement(share: float, n: int) -> float:
    """One point below `share`, or as much as it takes that `_UNNOTICED` more images of `n` do not miss it."""
    least, lost = _down(share - 0.01, 0.005), max(0, round(share * n) - _UNNOTICED)
    while least > 0 and is_significant(share_below(lost, n, least)):
        least = _down(least - 0.005, 0.005)
    return max(0.0, least)


def _fewest(variant: VariantReport) -> int:
    """Photos of the label that lost most, else of the one that has fewest."""
    if variant.accuracy is None:
        return 0 if variant.parity is None else variant.parity.n
    per_class, worst = variant.accuracy.per_class, variant.accuracy.worst_class
    counts = [per_class[worst].n] if worst in per_class else [found.n for found in per_class.values()]
    return min(counts, default=variant.accuracy.n)


def _down(value: float, step: float) -> float:
    """The multiple of `step` at or below `value`, without the noise of floats."""
    return round(math.floor(value / step + 1e-9) * step, 6)


def _up(value: float, digits: int) -> float:
    """`value` rounded up to so many significant digits."""
    if value <= 0:
        return value
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return round(math.ceil(value / step - 1e-9) * step, 6)


def _written(limit: float) -> str:
    return f"{int(limit):_}" if limit == int(limit) and abs(limit) >= 1000 else f"{limit:g}"
