"""The gate: limits, read from TOML, that a report is held against.

::

    [default]                      # every variant
    top1_agreement = 0.97
    [precision.int8]               # more specific sections override less specific ones, key by key:
    delta = -0.01                  # built in < default < precision < target < variant
    [target.onnx]
    p95_ms = 20
    [variant."tflite.int8"]
    bytes = 4_000_000

The built-in limits let a sound export pass and stop one whose decisions fall apart. A limit on something that was
not measured fails, and so does a variant that was not exported or could not run.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetl.verify.report import Check, VariantReport, Verdict
from edgetl_runtime.errors import UsageError, nearest

__all__ = ["QUANTITIES", "Gate", "Limits", "Quantity", "judge", "read_gate"]

Limits = Mapping[str, float]
"""Quantity to limit; whether that is the least or the most allowed stands in `QUANTITIES`."""


@dataclass(frozen=True)
class Quantity:
    """Something a gate can limit: how to read it from a report, and the relation ``value relation limit``."""

    relation: str
    read: Callable[[VariantReport], float | None]

    def holds(self, value: float, limit: float) -> bool:
        """Whether `value` is within `limit`."""
        return value >= limit if self.relation == ">=" else value <= limit


def _quantity(relation: str, part: str | None, name: str) -> Quantity:
    def read(report: VariantReport) -> float | None:
        holder = report if part is None else getattr(report, part)
        return None if holder is None else getattr(holder, name)

    return Quantity(relation, read)


QUANTITIES: dict[str, Quantity] = {
    "top1_agreement": _quantity(">=", "parity", "top1_agreement"),
    "sqnr_db": _quantity(">=", "parity", "sqnr_db"),
    "cosine": _quantity(">=", "parity", "cosine"),
    "max_abs": _quantity("<=", "parity", "max_abs"),
    "top1": _quantity(">=", "accuracy", "top1"),
    "top5": _quantity(">=", "accuracy", "top5"),
    "delta": _quantity(">=", "accuracy", "delta"),
    "p50_ms": _quantity("<=", "latency", "p50_ms"),
    "p95_ms": _quantity("<=", "latency", "p95_ms"),
    "load_ms": _quantity("<=", "latency", "load_ms"),
    "first_ms": _quantity("<=", "latency", "first_ms"),
    "bytes": _quantity("<=", None, "bytes"),
    "peak_rss_bytes": _quantity("<=", "memory", "peak_rss_bytes"),
}

_BUILT_IN: dict[str, Limits] = {
    "fp32": {"top1_agreement": 0.995, "sqnr_db": 60.0},
    "fp16": {"top1_agreement": 0.99, "sqnr_db": 30.0},
}
_BUILT_IN_QUANTISED: Limits = {"top1_agreement": 0.95, "delta": -0.02}

_TARGETS = ("onnx", "tflite", "openvino")
_PRECISION = re.compile(r"fp32|fp16|int8|dynamic|w\d+(a\d+)?")


@dataclass(frozen=True)
class Gate:
    """Limits by how specific they are. Without any, the built-in limits stand alone."""

    default: Limits = field(default_factory=dict)
    precision: Mapping[str, Limits] = field(default_factory=dict)
    target: Mapping[str, Limits] = field(default_factory=dict)
    variant: Mapping[str, Limits] = field(default_factory=dict)

    def limits_for(self, variant_id: str, *, target: str, precision: str) -> dict[str, float]:
        """The limits that hold for one variant, more specific ones over less specific ones."""
        return {
            **_BUILT_IN.get(precision, _BUILT_IN_QUANTISED),
            **self.default,
            **self.precision.get(precision, {}),
            **self.target.get(target, {}),
            **self.variant.get(variant_id, {}),
        }


def judge(variants: Iterable[VariantReport], gate: Gate) -> Verdict:
    """Hold what was measured against `gate`. No variants at all is a failure: nothing was shown."""
    checks = tuple(check for variant in variants for check in _checks(variant, gate))
    return Verdict(passed=bool(checks) and all(check.passed for check in checks), checks=checks)


def _checks(variant: VariantReport, gate: Gate) -> list[Check]:
    if variant.error is not None:
        return [Check(variant.id, "works", limit=None, value=None, passed=False, note=variant.error)]
    limits = gate.limits_for(variant.id, target=variant.target, precision=variant.precision)
    return [_check(variant, what, limit) for what, limit in limits.items()]


def _check(variant: VariantReport, what: str, limit: float) -> Check:
    quantity = QUANTITIES[what]
    value = quantity.read(variant)
    if value is None:
        return Check(variant.id, what, limit, None, False, quantity.relation, note="not measured")
    return Check(variant.id, what, limit, value, quantity.holds(value, limit), quantity.relation)


def read_gate(path: Path) -> Gate:
    """Read a gate from a TOML file.

    Raises `UsageError` when it cannot be read or names an unknown section, precision, target or quantity.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the gate {path}: {error.strerror}", fix="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the gate {path} is not TOML: {error}", fix="correct that line") from None
    sections = ("default", "precision", "target", "variant")
    for name in raw:
        if name not in sections:
            raise UsageError(f"{path}: unknown section [{name}]", fix=nearest(name, sections))
    groups = {name: _group(raw.get(name, {}), f"{path}: [{name}]") for name in sections[1:]}
    for precision in groups["precision"]:
        _check_precision(precision, str(path))
    for target in groups["target"]:
        _check_target(target, str(path))
    for variant in groups["variant"]:
        target, _, precision = variant.partition(".")
        _check_target(target, str(path))
        _check_precision(precision, str(path))
    return Gate(default=_limits(raw.get("default", {}), f"{path}: [default]"), **groups)


def _group(raw: Any, where: str) -> dict[str, Limits]:
    if not isinstance(raw, dict):
        raise UsageError(f"{where} is not a section", fix="write it as a TOML table")
    return {name: _limits(limits, f"{where} {name}") for name, limits in raw.items()}


def _limits(raw: Any, where: str) -> Limits:
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: expected a section with limits, found {raw!r}", fix="write it as a TOML table")
    for name, limit in raw.items():
        if name not in QUANTITIES:
            raise UsageError(f"{where}: unknown limit {name!r}", fix=nearest(name, list(QUANTITIES)))
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            raise UsageError(f"{where}: {name} must be a number, found {limit!r}", fix=f"for example: {name} = 0.95")
    return {name: float(limit) for name, limit in raw.items()}


def _check_target(target: str, where: str) -> None:
    if target not in _TARGETS:
        raise UsageError(f"{where}: unknown target {target!r}", fix=nearest(target, _TARGETS))


def _check_precision(precision: str, where: str) -> None:
    if not _PRECISION.fullmatch(precision):
        known = ("fp32", "fp16", "int8", "w8", "dynamic", "w8a16")
        raise UsageError(f"{where}: unknown precision {precision!r}", fix=nearest(precision, known))
