"""What verification said of a bundle's variants, as far as a device needs it: read from the bundle's report.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import BundleContents
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.quantities import told_apart

__all__ = [
    "COSTS",
    "LARGEST_REPORT",
    "FailedCheck",
    "Verified",
    "is_cost",
    "read_failed_checks",
    "read_verified",
]

_REPORT = "report.json"
LARGEST_REPORT = 32 * 2**20
_Found = TypeVar("_Found")
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
        value, limit = self.value, self.limit
        if isinstance(value, (int, float)) and isinstance(limit, (int, float)):
            value, limit = told_apart(value, limit)
        return f"{self.what} {value} (limit {limit})"


@dataclass(frozen=True)
class Verified:
    """How close a variant is to its original: over ``n`` photos the share of decisions that are the same (of a
    classifier: labels), and ``delta``, its quality minus the original's (shares of 1); ``top1``: that quality, which is
    called ``quality`` (of a classifier top-1). None was not measured. ``failed``: the checks of
    its quality that it failed; ``notes``: limits on its cost (`COSTS`) that it missed; ``created``: when (ISO 8601)."""

    n: int | None = None
    top1_agreement: float | None = None
    delta: float | None = None
    failed: tuple[str, ...] = ()
    top1: float | None = None
    notes: tuple[str, ...] = ()
    quality: str = "top-1"
    created: str | None = None

    @property
    def original(self) -> float | None:
        """The original's quality."""
        return None if self.top1 is None or self.delta is None else self.top1 - self.delta

    @property
    def drop(self) -> float | None:
        """How far its quality lies below the original's (share of 1, negative above). Without labelled photos the share
        of decisions that differ, which is the most that it can be; None when neither was measured."""
        if self.delta is not None:
            return -self.delta
        return None if self.top1_agreement is None else 1.0 - self.top1_agreement


def read_verified(bundle: BundleContents) -> dict[str, Verified]:
    """By variant id, what the report says of the files that the bundle has; empty when there is no report.

    What it says of other files, by their hashes, is passed over. Raises `BundleError` when it is damaged.
    """
    return _read(bundle, _all_verified)


def read_failed_checks(bundle: BundleContents) -> dict[str, tuple[FailedCheck, ...]]:
    """By variant id, the checks it failed; empty when nothing failed or there is no report.

    Raises `BundleError` when the report is damaged.
    """
    return _read(bundle, _failed_checks)


def _read(bundle: BundleContents, find: Callable[[Any, Manifest], dict[str, _Found]]) -> dict[str, _Found]:
    """What `find` finds in the bundle's report. All of it is input: any value may be of any type."""
    if not bundle.has(_REPORT):
        return {}
    content = bundle.read(_REPORT, limit=LARGEST_REPORT)
    try:
        return find(parse(content), bundle.manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{_REPORT} in {bundle.path} is damaged: {error!r:.300}", fix=_AGAIN) from None


def _all_verified(raw: Any, manifest: Manifest) -> dict[str, Verified]:
    failed = _failed_checks(raw, manifest)
    entries = {_text(entry["id"]): entry for entry in raw.get("variants") or () if _is_of(entry, manifest)}
    ids = dict.fromkeys((*entries, *failed))
    return {id_: _verified(entries.get(id_) or {}, failed.get(id_, ()), raw) for id_ in ids}


def _failed_checks(raw: Any, manifest: Manifest) -> dict[str, tuple[FailedCheck, ...]]:
    # A report that was not judged says so: verdict null. One that says nothing has lost something.
    verdict = raw["verdict"]
    failed = [check for check in map(_check_of, verdict["checks"]) if check] if verdict is not None else []
    others = {_text(entry["id"]) for entry in raw.get("variants") or () if not _is_of(entry, manifest)}
    ids = {check.variant for check in failed} - others
    return {id_: tuple(check for check in failed if check.variant == id_) for id_ in ids}


def _is_of(entry: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether an entry of a report is about the files that the manifest has under its id; older ones do not say."""
    recorded = entry.get("files_sha256")
    return not recorded or recorded == next(
        ({file.path: file.sha256 for file in item.files} for item in manifest.variants if item.id == entry["id"]), None
    )


def _verified(entry: Mapping[str, Any], failed: Sequence[FailedCheck], report: Mapping[str, Any]) -> Verified:
    parts = ("parity", "accuracy", "quality")
    parity, accuracy, quality = ({} if entry.get(part) is None else entry[part] for part in parts)
    if not quality:  # older reports have the numbers of classification alone
        quality = {"name": "top-1", "value": accuracy.get("top1"), "delta": accuracy.get("delta")}
    n, agreement = _number(parity.get("n")), parity.get("agreement")
    return Verified(
        n=None if n is None else int(n),
        top1_agreement=_number(parity.get("top1_agreement") if agreement is None else agreement),
        delta=_number(quality.get("delta")),
        failed=tuple(str(check) for check in failed if not check.is_cost),
        top1=_number(quality.get("value")),
        notes=tuple(str(check) for check in failed if check.is_cost),
        quality=_text(quality.get("name")),
        created=str(report.get("created") or "")[:40] or None,
    )


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        float(value)  # an integer may be beyond it
        return value
    raise TypeError(f"not a number: {value!r:.60}")


def _check_of(check: Mapping[str, Any]) -> FailedCheck | None:
    """A check of a report's verdict, None when it passed. Raises `KeyError` or `TypeError` when it is none."""
    variant, passed = _text(check["variant"]), check["passed"]
    if not isinstance(passed, bool):
        raise TypeError(f"variant {variant!r:.60}, passed {passed!r:.60}")
    return None if passed else FailedCheck(variant, _text(check["what"]), check["limit"], check["value"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.60}")
    return value
