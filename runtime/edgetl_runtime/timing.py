"""Clocks: how long a call takes, over repeats, and how long each part of a longer job took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edgetl_runtime.errors import UsageError
from edgetl_runtime.results import Result

__all__ = ["LatencyStats", "Stopwatch", "measure"]


@dataclass(frozen=True)
class LatencyStats(Result):
    """Wall-clock time of one call in milliseconds, over ``n`` calls."""

    n: int
    p50_ms: float
    p95_ms: float
    mean_ms: float
    min_ms: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> LatencyStats:
        """The statistics of single timings (ms); percentiles are interpolated linearly between them."""
        times = np.asarray(milliseconds, dtype=np.float64)
        p50, p95 = np.percentile(times, (50, 95))
        return cls(
            n=len(times), p50_ms=float(p50), p95_ms=float(p95), mean_ms=float(times.mean()), min_ms=float(times.min())
        )


def measure(
    call: Callable[[], object], *, seconds: float = 1.0, min_n: int = 20, max_n: int = 100_000, warmup: int = 3
) -> LatencyStats:
    """Time a function again and again.

    Args:
        call: What is timed.
        seconds: About so long, without the warm-up.
        min_n: At least so many calls are counted.
        max_n: At most so many.
        warmup: So many calls before them are not.

    Returns:
        Their statistics in ms.

    Raises:
        UsageError: The limits make no sense.
    """
    if seconds <= 0 or not 1 <= min_n <= max_n or warmup < 0:
        raise UsageError(
            f"cannot measure for {seconds} s, {min_n}..{max_n} calls after {warmup}",
            fix="seconds > 0, 1 <= min_n <= max_n, warmup >= 0",
        )
    for _ in range(warmup):
        call()
    times: list[float] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(times) < max_n:
        before = time.perf_counter_ns()
        if before >= end and len(times) >= min_n:
            break
        call()
        times.append((time.perf_counter_ns() - before) / 1e6)
    return LatencyStats.of(times)


@dataclass
class Stopwatch:
    """A clock per part of a job: ``with watch("load"): ...``, then ``watch.ms["load"]``.

    A part that is entered again adds to its time.
    """

    ms: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """The same in seconds."""
        return {part: milliseconds / 1e3 for part, milliseconds in self.ms.items()}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time of the block under `part`, also when it raises."""
        before = time.perf_counter_ns()
        try:
            yield
        finally:
            self.ms[part] = self.ms.get(part, 0.0) + (time.perf_counter_ns() - before) / 1e6
