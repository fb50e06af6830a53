"""What a gate can limit: how it is read from a report, by which rule it is decided, what it is called, and which limits
make sense. What only one task has stands with the task (`edgetl.tasks.task.Task.quantities`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgetl.tasks import TASKS, task_of
from edgetl.tasks.quantity import CHANGE, Quantity
from edgetl.verify.report import SQNR_LIMIT_DB
from edgetl_runtime.quantities import SHARE, Range

__all__ = ["QUANTITIES", "Quantity"]

_PERCENT = (0.01,)
_DECIBELS = Range(0.0, SQNR_LIMIT_DB, "decibels", 20.0)
_COSINE = Range(0.0, 1.0, "a share of 1", 0.99, _PERCENT)
_LOGIT = Range(0.0, 1e6, "a difference of logits", 0.5)
_RUN_MS = Range(1e-3, 60_000.0, "milliseconds", 20.0, (1e-3, 1e-6))
_START_MS = Range(1e-3, 3_600_000.0, "milliseconds", 900.0, (1e-3, 1e-6))
_RATIO = Range(0.01, 20.0, "a multiple of the reference's", 1.2, _PERCENT)
_SPEEDUP = Range(0.05, 100.0, "a multiple of the speed of fp32", 1.5, _PERCENT)
_FILE = Range(100.0, 1e11, "bytes", 4_000_000, (1e6,))
_MEMORY = Range(1e6, 1e13, "bytes", 150_000_000, (1e3, 1e6))

_OF_ALL_TASKS: dict[str, Quantity] = {
    "agreement": Quantity(
        ">=", "parity", "decided_alike", "agreement with the original", SHARE, "mean", "agreement_ci95"
    ),
    "delta": Quantity(
        ">=", "known_quality", "delta", "change in quality", CHANGE, "change", "delta_ci95"
    ),
    "sqnr_db": Quantity(">=", "parity", "sqnr_db", "SQNR in dB", _DECIBELS),
    "cosine": Quantity(">=", "parity", "cosine", "cosine of the logits", _COSINE),
    "max_abs": Quantity("<=", "parity", "max_abs", "largest difference of a logit", _LOGIT),
    "features_sqnr_db": Quantity(">=", "", "features_sqnr_db", "least SQNR of a feature in dB", _DECIBELS),
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


class _Quantities(Mapping[str, Quantity]):
    """Those of all tasks, and of each task that is known."""

    def _all(self) -> dict[str, Quantity]:
        own = {name: found for task in TASKS for name, found in task_of(task).quantities.items()}
        return {**own, **_OF_ALL_TASKS}

    def __getitem__(self, name: str) -> Quantity:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


QUANTITIES = _Quantities()
