"""A gate proposed from a report: what the variants reach today, less a margin, rounded to what a person would write.

| quantity | limit |
|---|---|
| ``top1_agreement`` | one point (0.01) below, rounded down to half a point |
| ``sqnr_db`` | 3 dB below, whole dB, at most 80: beyond that only the order of float32 sums differs between machines |
| ``features_sqnr_db`` | the same, where there are features |
| ``delta`` | one point below the lower of 0 and the value, rounded down to half a point |
| ``class_delta`` | five points below the lower of 0 and the value, rounded down to half a point |
| ``p50_ratio`` | 15 % above (`regression.LATENCY_MARGIN`), rounded up to two digits |
| ``bytes`` | 2 % above, rounded up to three digits |
| ``peak_rss_bytes`` | 15 % above, rounded up to two digits; only where it was measured |
| ``cold_start_ms`` | 50 % above, rounded up to two digits; only where it was measured |

Milliseconds are left out: they belong to one machine. A variant that failed gets no limits, so that what is broken
does not become the measure; the built-in limits stay with it. The same goes for variants that were not measured, which
are named. So the proposed gate passes on the report that it was
made from wherever that report passed.
"""

from __future__ import annotations

import math
from pathlib import Path

from edgetl.verify.gate import QUANTITIES, read_gate
from edgetl.verify.regression import LATENCY_MARGIN
from edgetl.verify.report import Report, VariantReport
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.writing import write_file

__all__ = ["check_gate_path", "propose_gate", "write_gate"]

_MOST_SQNR = 80.0


def check_gate_path(path: Path, *, force: bool) -> None:
    """`OutputError` when there is a file already and not `force`: limits that somebody chose are not lost."""
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", fix="choose another --write-gate, or --force to replace it")


def write_gate(report: Report, path: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write `propose_gate` to `path`, and return what there is to say: whose limits are not in it, or no longer.

    Raises `OutputError`.
    """
    check_gate_path(path, force=force)
    lost = _limited(path) - {variant.id for variant in report.variants} if path.exists() else set()
    write_file(path, propose_gate(report))
    notes = [f"proposed gate: {path}"]
    if report.left_out:
        notes.append(f"{path} has no limits of its own for {', '.join(report.left_out)}: not measured this time")
    if lost:
        notes.append(f"{path} had limits for {', '.join(sorted(lost))}, and they are gone: --force replaced all of it")
    return tuple(notes)


def _limited(path: Path) -> set[str]:
    """The variants that the gate at `path` has limits for; none when it is no gate."""
    try:
        return set(read_gate(path).variant)
    except UsageError:
        return set()


def propose_gate(report: Report) -> str:
    """The gate as TOML, a section for each variant that passed."""
    failed = {check.variant for check in report.verdict.failed}
    references = [variant.latency.reference for variant in report.variants if variant.latency is not None]
    reference = next((name for name in references if name is not None), None)
    lines = [
        f"# Proposed by edgetl verify --write-gate from {report.bundle} on {report.data.n} images, {report.created}.",
        "# What was measured less a margin; change what you know better.",
    ]
    if reference is not None:
        lines.append(f'reference = "{reference}"')
    if report.left_out:
        lines.append(f"# Not measured, the built-in limits stay: {', '.join(report.left_out)}.")
    for variant in report.variants:
        if variant.id in failed:
            lines += ["", f"# {variant.id} failed: the built-in limits stay."]
            continue
        lines += ["", f'[variant."{variant.id}"]']
        lines += [f"{name} = {_written(limit)}" for name, limit in _limits(variant).items()]
    return "\n".join(lines) + "\n"


def _limits(variant: VariantReport) -> dict[str, float]:
    def value(name: str) -> float | None:
        return QUANTITIES[name].read(variant)

    found: dict[str, float] = {}
    agreement, sqnr, ratio = value("top1_agreement"), value("sqnr_db"), value("p50_ratio")
    if agreement is not None:
        found["top1_agreement"] = max(0.0, _down(agreement - 0.01, 0.005))
    for name, decibels in (("sqnr_db", sqnr), ("features_sqnr_db", value("features_sqnr_db"))):
        if decibels is not None:
            found[name] = min(_MOST_SQNR, _down(decibels - 3, 1.0))
    for name, margin in (("delta", 0.01), ("class_delta", 0.05)):
        drop = value(name)
        if drop is not None:
            found[name] = _down(min(0.0, drop) - margin, 0.005)
    if ratio is not None and variant.latency is not None and variant.latency.reference != variant.id:
        found["p50_ratio"] = _up(ratio * LATENCY_MARGIN, 2)
    for name, factor, digits in (("bytes", 1.02, 3), ("peak_rss_bytes", 1.15, 2), ("cold_start_ms", 1.5, 2)):
        most = value(name)
        if most is not None:
            found[name] = _up(most * factor, digits)
    return found


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
