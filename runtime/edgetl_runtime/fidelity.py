"""What verification said of a bundle's variants, as far as a device needs it: read from the bundle's report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.quantities import told_apart

__all__ = ["FailedCheck", "Fidelity", "read_failed_checks", "read_fidelity"]

_REPORT = "report.json"
_LARGEST_REPORT = 32 * 2**20


@dataclass(frozen=True)
class FailedCheck:
    """A check of the report's verdict that a variant did not pass."""

    variant: str
    what: str
    limit: Any
    value: Any

    def __str__(self) -> str:
        value, limit = self.value, self.limit
        if isinstance(value, (int, float)) and isinstance(limit, (int, float)):
            value, limit = told_apart(value, limit)
        return f"{self.what} {value} (limit {limit})"


@dataclass(frozen=True)
class Fidelity:
    """How close a variant is to its original: over ``n`` photos the share with the same label, and ``delta``, its
    top-1 minus the original's (shares of 1); ``top1``: that top-1. None was not measured. ``failed``: the checks of
    the gate it failed."""

    n: int | None = None
    top1_agreement: float | None = None
    delta: float | None = None
    failed: tuple[str, ...] = ()
    top1: float | None = None

    @property
    def drop(self) -> float | None:
        """How far its top-1 lies below the original's (share of 1, negative above). Without labelled photos the share
        of decisions that differ, which is the most that it can be; None when neither was measured."""
        if self.delta is not None:
            return -self.delta
        return None if self.top1_agreement is None else 1.0 - self.top1_agreement


def read_fidelity(bundle: Bundle) -> dict[str, Fidelity]:
    """By variant id, what the report says; empty when there is no report. `BundleError` when it is damaged."""
    if not bundle.has(_REPORT):
        return {}
    failed = read_failed_checks(bundle)
    content = bundle.read(_REPORT, limit=_LARGEST_REPORT)
    try:
        entries = {entry["id"]: entry for entry in json.loads(content).get("variants") or ()}
        return {
            id_: _fidelity(entries.get(id_) or {}, tuple(map(str, failed.get(id_, ()))))
            for id_ in dict.fromkeys((*entries, *failed))
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{_REPORT} in {bundle.path} is damaged: {error!r}", fix="edgetl verify") from None


def _fidelity(entry: Mapping[str, Any], failed: tuple[str, ...]) -> Fidelity:
    parity, accuracy = entry.get("parity") or {}, entry.get("accuracy") or {}
    n = _number(parity.get("n"))
    return Fidelity(
        n=None if n is None else int(n),
        top1_agreement=_number(parity.get("top1_agreement")),
        delta=_number(accuracy.get("delta")),
        failed=failed,
        top1=_number(accuracy.get("top1")),
    )


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"not a number: {value!r}")


def read_failed_checks(bundle: Bundle) -> dict[str, tuple[FailedCheck, ...]]:
    """By variant id, the checks it failed; empty when nothing failed or there is no report.

    Raises `BundleError` when the report is damaged.
    """
    if not bundle.has(_REPORT):
        return {}
    content = bundle.read(_REPORT, limit=_LARGEST_REPORT)
    try:
        raw = json.loads(content)
        # A report that was not judged says so: verdict null. One that says nothing has lost something.
        verdict = raw["verdict"]
        failed = [check for check in map(_check_of, verdict["checks"]) if check] if verdict is not None else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{_REPORT} in {bundle.path} is damaged: {error!r}", fix="edgetl verify") from None
    return {id_: tuple(check for check in failed if check.variant == id_) for id_ in {c.variant for c in failed}}


def _check_of(check: Mapping[str, Any]) -> FailedCheck | None:
    """A check of a report's verdict, None when it passed. Raises `KeyError` or `TypeError` when it is none."""
    variant, passed = check["variant"], check["passed"]
    if not isinstance(variant, str) or not isinstance(passed, bool):
        raise TypeError(f"variant {variant!r:.60}, passed {passed!r:.60}")
    return None if passed else FailedCheck(variant, check["what"], check["limit"], check["value"])
