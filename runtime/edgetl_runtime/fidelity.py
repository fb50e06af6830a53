"""What verification said of a bundle's variants, as far as a device needs it: read from the bundle's report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Manifest

__all__ = ["COSTS", "FailedCheck", "Fidelity", "is_cost", "read_failed_checks", "read_fidelity"]

_REPORT = "report.json"
_LARGEST_REPORT = 32 * 2**20
_AGAIN = "remove that file, and verify again: edgetl verify BUNDLE --data DIR --record"

COSTS = frozenset(
    (
        *("p50_ms", "p95_ms", "p50_ratio", "p95_ratio", "speedup", "load_ms", "first_ms"),
        *("bytes", "peak_rss_bytes", "cold_start_ms"),
    )
)
"""What a gate can limit that says nothing of what a variant answers: time, size and memory, on somebody's machine."""


def is_cost(what: str) -> bool:
    """Whether the check `what` is about one of `COSTS`, or its change since a baseline; any other is about quality."""
    return what.removeprefix("baseline.") in COSTS


@dataclass(frozen=True)
class FailedCheck:
    """A check of the report's verdict that a variant did not pass."""

    variant: str
    what: str
    limit: Any
    value: Any

    @property
    def is_cost(self) -> bool:
        """Whether it is about time, size or memory: a note to who runs the variant, and no reason not to."""
        return is_cost(self.what)

    def __str__(self) -> str:
        return f"{self.what} {_short(self.value)} (limit {_short(self.limit)})"


@dataclass(frozen=True)
class Fidelity:
    """How close a variant is to its original: over ``n`` photos the share with the same label, and ``delta``, its
    top-1 minus the original's (shares of 1); ``top1``: that top-1. None was not measured. ``failed``: the checks of
    its quality that it failed; ``notes``: limits on its cost (`COSTS`) that it missed."""

    n: int | None = None
    top1_agreement: float | None = None
    delta: float | None = None
    failed: tuple[str, ...] = ()
    top1: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def drop(self) -> float | None:
        """How far its top-1 lies below the original's (share of 1, negative above). Without labelled photos the share
        of decisions that differ, which is the most that it can be; None when neither was measured."""
        if self.delta is not None:
            return -self.delta
        return None if self.top1_agreement is None else 1.0 - self.top1_agreement


def read_fidelity(bundle: Bundle) -> dict[str, Fidelity]:
    """By variant id, what the report says of the files that the bundle has; empty when there is no report.

    What it says of other files, by their hashes, is passed over. Raises `BundleError` when it is damaged.
    """
    raw = _read(bundle)
    failed = _failed_checks(bundle, raw)
    try:
        entries = {entry["id"]: entry for entry in raw.get("variants") or () if _is_of(entry, bundle.manifest)}
        return {
            id_: _fidelity(entries.get(id_) or {}, failed.get(id_, ())) for id_ in dict.fromkeys((*entries, *failed))
        }
    except _DAMAGED as error:
        raise _damaged(bundle, error) from None


def read_failed_checks(bundle: Bundle) -> dict[str, tuple[FailedCheck, ...]]:
    """By variant id, the checks it failed; empty when nothing failed or there is no report.

    Raises `BundleError` when the report is damaged.
    """
    return _failed_checks(bundle, _read(bundle))


_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _read(bundle: Bundle) -> Mapping[str, Any]:
    """The report as JSON has it; one without checks where there is none."""
    if not bundle.has(_REPORT):
        return {"verdict": None}
    content = bundle.read(_REPORT, limit=_LARGEST_REPORT)
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(bundle, error) from None
    if not isinstance(raw, dict):
        raise _damaged(bundle, TypeError(f"not an object: {raw!r:.60}"))
    return raw


def _failed_checks(bundle: Bundle, raw: Mapping[str, Any]) -> dict[str, tuple[FailedCheck, ...]]:
    try:
        # A report that was not judged says so: verdict null. One that says nothing has lost something.
        verdict = raw["verdict"]
        failed = [check for check in map(_check_of, verdict["checks"]) if check] if verdict is not None else []
        others = {entry["id"] for entry in raw.get("variants") or () if not _is_of(entry, bundle.manifest)}
        ids = {check.variant for check in failed} - others
    except _DAMAGED as error:
        raise _damaged(bundle, error) from None
    return {id_: tuple(check for check in failed if check.variant == id_) for id_ in ids}


def _is_of(entry: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether an entry of a report is about the files that the manifest has under its id; older ones do not say."""
    recorded = entry.get("files_sha256")
    return not recorded or recorded == next(
        ({file.path: file.sha256 for file in item.files} for item in manifest.variants if item.id == entry["id"]), None
    )


def _fidelity(entry: Mapping[str, Any], failed: Sequence[FailedCheck]) -> Fidelity:
    parity, accuracy = entry.get("parity") or {}, entry.get("accuracy") or {}
    n = _number(parity.get("n"))
    return Fidelity(
        n=None if n is None else int(n),
        top1_agreement=_number(parity.get("top1_agreement")),
        delta=_number(accuracy.get("delta")),
        failed=tuple(str(check) for check in failed if not check.is_cost),
        top1=_number(accuracy.get("top1")),
        notes=tuple(str(check) for check in failed if check.is_cost),
    )


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"not a number: {value!r}")


def _check_of(check: Mapping[str, Any]) -> FailedCheck | None:
    """A check of a report's verdict, None when it passed. Raises `KeyError` or `TypeError` when it is none."""
    variant, what, passed = check["variant"], check["what"], check["passed"]
    if not isinstance(variant, str) or not isinstance(what, str) or not isinstance(passed, bool):
        raise TypeError(f"variant {variant!r:.60}, what {what!r:.60}, passed {passed!r:.60}")
    return None if passed else FailedCheck(variant, what, check["limit"], check["value"])


def _damaged(bundle: Bundle, error: Exception) -> BundleError:
    return BundleError(f"{_REPORT} in {bundle.path} is damaged: {error!r}", fix=_AGAIN)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
