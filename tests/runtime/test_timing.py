"""Clocks count what they are told to count."""

from __future__ import annotations

import time

import pytest

from edgetl_runtime import LatencyStats, UsageError, measure
from edgetl_runtime.timing import Stopwatch


def test_statistics_of_known_times() -> None:
    stats = LatencyStats.of([float(i) for i in range(1, 102)])
    assert (stats.n, stats.p50_ms, stats.p95_ms, stats.mean_ms, stats.min_ms) == (101, 51.0, 96.0, 51.0, 1.0)


def test_measure_times_the_call_in_milliseconds() -> None:
    stats = measure(lambda: time.sleep(0.004), seconds=0.05, min_n=5)
    assert 4.0 <= stats.min_ms <= stats.p50_ms <= stats.p95_ms
    assert stats.p50_ms < 40


@pytest.mark.parametrize(
    ("seconds", "min_n", "max_n", "expected"), [(1e-9, 7, 100, 7), (60.0, 1, 12, 12)], ids=["slow call", "fast call"]
)
def test_number_of_calls_is_bounded(seconds: float, min_n: int, max_n: int, expected: int) -> None:
    calls: list[None] = []
    stats = measure(lambda: calls.append(None), seconds=seconds, min_n=min_n, max_n=max_n, warmup=3)
    assert stats.n == expected
    assert len(calls) == expected + 3


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"min_n": 0}, {"min_n": 9, "max_n": 8}, {"warmup": -1}])
def test_limits_without_sense_are_usage_errors(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot measure"):
        measure(lambda: None, **limits)


def test_stopwatch_keeps_parts_apart_and_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch("run"):
            time.sleep(0.003)
    with pytest.raises(ValueError, match="x"), watch("load"):
        raise ValueError("x")
    assert watch.ms["run"] >= 6.0
    assert watch.ms["load"] < watch.ms["run"]
