"""The gate: limits, read from TOML, that a report is held against.

::

    reference = "onnx.fp32"        # what p50_ratio and p95_ratio are against, in the same run; this is the default
    [default]                      # every variant
    top1_agreement = 0.97
    [precision.int8]               # more specific sections override less specific ones, key by key:
    delta = -0.01                  # built in < default < precision < target < variant
    [target.onnx]
    p50_ratio = 1.2
    [variant."tflite.int8"]
    bytes = 4_000_000

The built-in limits let a sound export pass and stop one whose decisions fall apart. A limit that makes no sense for its
quantity (`edgetl.verify.gate.quantities`) is an error. A limit on something that was not measured fails, and so does a
variant that was not exported or could not run. When a measured value misses a limit by chance or noise alone, that is
no failure: the rules are in `edgetl.verify.gate.decision`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetl.tasks import task_of
from edgetl.toml_file import read_toml
from edgetl.verify.gate.decision import (
    Decision,
    decide_change,
    decide_interval,
    decide_mean,
    decide_plain,
    decide_share,
)
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.report import Check, VariantReport, Verdict
from edgetl_runtime.errors import UsageError, nearest

__all__ = ["Gate", "Limits", "checks_of", "decide", "judge", "read_gate"]

Limits = Mapping[str, float]
"""Quantity to limit; whether that is the least or the most allowed stands in `QUANTITIES`."""

_AGREEMENT = {"fp32": 0.995, "fp16": 0.99}
_BUILT_IN: dict[str, Limits] = {"fp32": {"sqnr_db": 60.0}, "fp16": {"sqnr_db": 30.0}}
_BUILT_IN_QUANTISED: Limits = {"delta": -0.02, "sqnr_db": 6.0}

_BUILT_IN_FEATURES = {"fp32": 80.0, "fp16": 30.0}
_BUILT_IN_FEATURES_QUANTISED = 6.0
"""Least SQNR of features, where there are any."""

_TARGETS = ("onnx", "tflite", "openvino")
_PRECISION = re.compile(r"fp32|fp16|int8|dynamic|w\d+(a\d+)?")


@dataclass(frozen=True)
class Gate:
    """Limits by how specific they are. Without any, the built-in limits stand alone.

    ``reference`` is the variant that ratios of latency are against, ``None`` for fp32 of onnx, else the first fp32.
    Raises `UsageError` for an unknown precision, target, variant or quantity, and for a limit that makes no sense.
    """

    default: Limits = field(default_factory=dict)
    precision: Mapping[str, Limits] = field(default_factory=dict)
    target: Mapping[str, Limits] = field(default_factory=dict)
    variant: Mapping[str, Limits] = field(default_factory=dict)
    reference: str | None = None

    def __post_init__(self) -> None:
        if self.reference is not None:
            _check_variant(self.reference)
        _check_limits(self.default, "[default]")
        checks = {"precision": _check_precision, "target": _check_target, "variant": _check_variant}
        for group, check in checks.items():
            for name, limits in getattr(self, group).items():
                check(name)
                _check_limits(limits, f"[{group}.{name}]" if group != "variant" else f'[variant."{name}"]')

    def needs(self, part: str) -> bool:
        """Whether any limit is on a quantity of `part` of a report (``"latency"``, ``"memory"``)."""
        groups = (self.precision, self.target, self.variant)
        sections = [self.default, *(limits for group in groups for limits in group.values())]
        return any(QUANTITIES[name].part == part for limits in sections for name in limits)

    def limits_for(
        self,
        variant_id: str,
        *,
        target: str,
        precision: str,
        features: bool = False,
        task: str = "classification",
    ) -> dict[str, float]:
        """The limits that hold for one variant, more specific ones over less specific ones.

        `features`: whether it gives any, which have a built-in limit too; `task` has its own name for the agreement.
        """
        of_features = _BUILT_IN_FEATURES.get(precision, _BUILT_IN_FEATURES_QUANTISED)
        limits = {
            task_of(task).agreement: _AGREEMENT.get(precision, task_of(task).agreement_quantised),
            **_BUILT_IN.get(precision, _BUILT_IN_QUANTISED),
            **({"features_sqnr_db": of_features} if features else {}),
            **self.default,
            **self.precision.get(precision, {}),
            **self.target.get(target, {}),
            **self.variant.get(variant_id, {}),
        }
        return {name: float(limit) for name, limit in limits.items()}


def judge(
    variants: Iterable[VariantReport], gate: Gate, *, task: str = "classification", also: Iterable[Check] = ()
) -> Verdict:
    """Hold what was measured against `gate`; `also` are checks from elsewhere. Nothing to check is a failure."""
    checks = (*(check for variant in variants for check in checks_of(variant, gate, task=task)), *also)
    return Verdict(passed=bool(checks) and all(check.passed for check in checks), checks=checks)


def checks_of(variant: VariantReport, gate: Gate, *, task: str = "classification") -> list[Check]:
    """One variant held against its limits; that it does not work is the only check when it does not."""
    if variant.error is not None:
        return [Check(variant.id, "works", limit=None, value=None, passed=False, note=variant.error)]
    limits = gate.limits_for(
        variant.id, target=variant.target, precision=variant.precision, features=bool(variant.features), task=task
    )
    return [_check(variant, what, limit) for what, limit in limits.items()]


def decide(variant: VariantReport, what: str, value: float, limit: float) -> Decision:
    """Whether `value`, that of the quantity `what` of `variant`, is within `limit`, by the rule of its kind."""
    quantity = QUANTITIES[what]
    accuracy, latency = variant.accuracy, variant.latency
    if quantity.kind == "share":
        measured = variant.parity if quantity.part == "parity" else accuracy
        return (
            decide_plain(quantity.holds(value, limit)) if measured is None else decide_share(value, measured.n, limit)
        )
    if quantity.kind == "change" and accuracy and accuracy.broken is not None and accuracy.repaired is not None:
        return decide_change(
            value,
            limit,
            broken=accuracy.broken,
            repaired=accuracy.repaired,
            n=accuracy.n,
            interval=quantity.interval_of(variant),
        )
    if quantity.kind in ("change", "mean"):
        return decide_mean(value, limit, quantity.interval_of(variant))
    if quantity.kind in ("time", "start"):
        return decide_interval(
            lambda time: quantity.holds(time, limit),
            value,
            quantity.interval_of(variant),
            rounds=len(latency.rounds_ms) if latency is not None and quantity.kind == "time" else 0,
            waited=quantity.waited_of(variant),
        )
    return decide_plain(quantity.holds(value, limit))


def _check(variant: VariantReport, what: str, limit: float) -> Check:
    quantity = QUANTITIES[what]
    value = quantity.read(variant)
    if value is None:
        return Check(variant.id, what, limit, None, False, quantity.relation, note="not measured")
    found = decide(variant, what, value, limit)
    note = found.note
    if what == "class_delta" and variant.accuracy is not None and variant.accuracy.worst_class is not None:
        note = f"label {variant.accuracy.worst_class}"
    return Check(
        variant.id,
        what,
        limit,
        value,
        found.passed,
        quantity.relation,
        note=note,
        undecided=found.undecided,
        interval=found.interval,
        p_value=found.p_value,
    )


def read_gate(path: Path) -> Gate:
    """Read a gate from a TOML file.

    Raises `UsageError` when it cannot be read, names an unknown section, precision, target or quantity, or has a limit
    that makes no sense.
    """
    raw = read_toml(path, "gate")
    sections = ("default", "precision", "target", "variant")
    for name in raw:
        if name not in (*sections, "reference"):
            raise UsageError(f"{path}: unknown section [{name}]", fix=nearest(name, sections))
    for name in sections[1:]:
        if not isinstance(raw.get(name, {}), dict):
            raise UsageError(f"{path}: [{name}] is not a section", fix="write it as a TOML table")
    try:
        return Gate(**raw)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", fix=error.fix) from None


def _check_limits(raw: Any, where: str) -> None:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: expected a section with limits, found {raw!r}", fix="write it as a TOML table")
    for name, limit in raw.items():
        if name not in QUANTITIES:
            raise UsageError(f"{where}: unknown limit {name!r}", fix=nearest(name, list(QUANTITIES)))
        try:
            QUANTITIES[name].range.check(name, limit)
        except UsageError as error:
            raise UsageError(f"{where}: {error.what}", fix=error.fix) from None


def _check_variant(variant: Any) -> None:
    if variant in _TARGETS:
        raise UsageError(f"{variant!r} names no variant", fix=f'for example "{variant}.int8", in quotes')
    if not isinstance(variant, str):
        raise UsageError(f"{variant!r} names no variant", fix='for example: reference = "onnx.fp32"')
    target, _, precision = variant.partition(".")
    _check_target(target)
    _check_precision(precision)


def _check_target(target: str) -> None:
    if target not in _TARGETS:
        raise UsageError(f"unknown target {target!r}", fix=nearest(target, _TARGETS))


def _check_precision(precision: str) -> None:
    if not _PRECISION.fullmatch(precision):
        known = ("fp32", "fp16", "int8", "w8", "dynamic", "w8a16")
        raise UsageError(f"unknown precision {precision!r}", fix=nearest(precision, known))
