"""What a gate can limit, in one table: how it is read from a report, by which rule it is decided, what it is called,
and which limits make sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgetl.verify.report import SQNR_LIMIT_DB, VariantReport
from edgetl_runtime.quantities import SHARE, Range

__all__ = ["QUANTITIES", "Quantity"]


@dataclass(frozen=True)
class Quantity:
    """Something a gate can limit: ``value relation limit``.

    ``part`` of a `VariantReport` (empty: the report itself) has it as ``field``; ``kind`` is the rule of
    `edgetl.verify.gate.decision`: plain, share, change, time, or start (a time that is measured once). ``interval`` is
    the field with its 95 % interval, ``waited`` that with the share of time that others kept the process waiting.
    ``title`` is its name for people, and ``range`` are the limits that make sense.
    """

    relation: str
    part: str
    field: str
    title: str
    range: Range
    kind: str = "plain"
    interval: str | None = None
    waited: str | None = None

    def read(self, report: VariantReport) -> float | None:
        """The value, ``None`` when it was not measured."""
        value: float | None = self._field(report, self.field)
        return value

    def interval_of(self, report: VariantReport) -> tuple[float, float] | None:
        """Its 95 % interval, ``None`` when it has none."""
        interval: tuple[float, float] | None = None if self.interval is None else self._field(report, self.interval)
        return interval

    def waited_of(self, report: VariantReport) -> float:
        """The share of time that others kept it waiting; 0 where that is not known."""
        return 0.0 if self.waited is None else self._field(report, self.waited) or 0.0

    def holds(self, value: float, limit: float) -> bool:
        """Whether `value` is within `limit`."""
        return value >= limit if self.relation == ">=" else value <= limit

    def _field(self, report: VariantReport, name: str) -> Any:
        holder = getattr(report, self.part) if self.part else report
        return None if holder is None else getattr(holder, name)


_PERCENT = (0.01,)
_CHANGE = Range(-0.5, 0.5, "a share of 1", -0.01, _PERCENT, but=(-0.5, 0.5))
"""Who loses half of all photos has no limit, but percent."""
_CLASS_CHANGE = Range(-1.0, 1.0, "a share of 1", -0.05, _PERCENT, but=(-1.0, 1.0))
_DECIBELS = Range(0.0, SQNR_LIMIT_DB, "decibels", 20.0)
_COSINE = Range(0.0, 1.0, "a share of 1", 0.99, _PERCENT)
_LOGIT = Range(0.0, 1e6, "a difference of logits", 0.5)
_RUN_MS = Range(1e-3, 60_000.0, "milliseconds", 20.0, (1e-3, 1e-6))
_START_MS = Range(1e-3, 3_600_000.0, "milliseconds", 900.0, (1e-3, 1e-6))
_RATIO = Range(0.01, 20.0, "a multiple of the reference's", 1.2, _PERCENT)
_SPEEDUP = Range(0.05, 100.0, "a multiple of the speed of fp32", 1.5, _PERCENT)
_FILE = Range(100.0, 1e11, "bytes", 4_000_000, (1e6,))
_MEMORY = Range(1e6, 1e13, "bytes", 150_000_000, (1e3, 1e6))

QUANTITIES: dict[str, Quantity] = {
    "top1_agreement": Quantity(
        ">=", "parity", "top1_agreement", "top-1 agreement with the original", SHARE, kind="share"
    ),
    "sqnr_db": Quantity(">=", "parity", "sqnr_db", "SQNR in dB", _DECIBELS),
    "cosine": Quantity(">=", "parity", "cosine", "cosine of the logits", _COSINE),
    "max_abs": Quantity("<=", "parity", "max_abs", "largest difference of a logit", _LOGIT),
    "features_sqnr_db": Quantity(">=", "", "features_sqnr_db", "least SQNR of a feature in dB", _DECIBELS),
    "top1": Quantity(">=", "accuracy", "top1", "top-1 accuracy", SHARE, kind="share"),
    "top5": Quantity(">=", "accuracy", "top5", "top-5 accuracy", SHARE, kind="share"),
    "delta": Quantity(
        ">=", "accuracy", "delta", "change in top-1 accuracy", _CHANGE, kind="change", interval="delta_ci95"
    ),
    "class_delta": Quantity(
        ">=", "accuracy", "class_delta", "change in top-1 accuracy of the label that loses most", _CLASS_CHANGE
    ),
    "p50_ms": Quantity("<=", "latency", "p50_ms", "median latency in ms", _RUN_MS, "time", "p50_ci95", "waited"),
    "p95_ms": Quantity(
        "<=", "latency", "p95_ms", "95th percentile latency in ms", _RUN_MS, "time", "p95_ci95", "waited"
    ),
    "p50_ratio": Quantity(
        "<=", "latency", "ratio", "median latency as a multiple of the reference's", _RATIO,
        "time", "ratio_ci95", "waited",
    ),
    "p95_ratio": Quantity(
        "<=", "latency", "p95_ratio", "95th percentile latency as a multiple of the reference's", _RATIO,
        "time", "p95_ratio_ci95", "waited",
    ),
    "speedup": Quantity(
        ">=", "latency", "speedup", "speed-up over fp32 of the same target", _SPEEDUP, "time", "speedup_ci95", "waited"
    ),
    "load_ms": Quantity("<=", "latency", "load_ms", "load time in ms", _START_MS, "start", waited="start_waited"),
    "first_ms": Quantity("<=", "latency", "first_ms", "first run in ms", _START_MS, "start", waited="start_waited"),
    "bytes": Quantity("<=", "", "bytes", "size in bytes", _FILE),
    "peak_rss_bytes": Quantity("<=", "memory", "peak_rss_bytes", "peak memory in bytes", _MEMORY),
    "cold_start_ms": Quantity(
        "<=", "memory", "cold_start_ms", "cold start of a fresh process in ms", _START_MS, "start", waited="waited"
    ),
}  # fmt: skip
