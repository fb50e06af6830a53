"""What verification said of a bundle's variants, as far as a device needs it: read from the bundle's report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import BundleError

__all__ = ["Fidelity", "read_fidelity"]

_REPORT = "report.json"


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
    failed = bundle.failed_checks()
    try:
        content = bundle.read(_REPORT)
    except BundleError:  # missing: had it been unreadable, the line above would have said so
        return {}
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
