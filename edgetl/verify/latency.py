"""Latency: what one image costs, measured so that the variants can be compared with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, preprocess
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.timing import LatencyStats

__all__ = ["Latency", "LatencyOptions", "measure_latency", "median_preprocess_ms"]

ROUNDS = 5
WARM_UP_RUNS = 2  # after another variant has had the caches
LEAST_RUNS = 3  # per round, so that a slow model still gets a median


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds for one image at a time on ``threads`` threads.

    ``n`` runs gave ``p50_ms`` and ``p95_ms``. ``load_ms`` is from file to session, ``first_ms`` the first run after
    it, ``preprocess_ms`` the median from image file to tensor (the same code for every variant). ``rounds_ms`` are the
    medians of the rounds in order, ``ratio`` the cost of a run over one of the reference engine's in the same rounds
    and ``speedup`` that of fp32 of the same target over it, each with its 95 % interval.
    """

    threads: int
    n: int
    p50_ms: float
    p95_ms: float
    load_ms: float
    first_ms: float
    preprocess_ms: float
    rounds_ms: tuple[float, ...] = ()
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class LatencyOptions:
    """``seconds`` of runs per variant; ``threads`` and ``preprocess_ms`` are what the results will say."""

    threads: int
    seconds: float
    preprocess_ms: float


@dataclass
class _Timed:
    session: Session
    load_ms: float
    first_ms: float
    runs_ms: list[float]


def measure_latency(
    openers: Mapping[str, Callable[[], Session]], feeds: Tensors, options: LatencyOptions
) -> dict[str, Latency | EdgetlError]:
    """Time each variant; by variant id its latency, or the error that stopped it.

    The variants take turns in short rounds, so that a machine that slows down or warms up slows them all alike.
    `openers` load the sessions; `feeds` are the input tensors of one image.
    """
    timed: dict[str, _Timed] = {}
    results: dict[str, Latency | EdgetlError] = {}
    with ExitStack() as stack:
        for variant, opener in openers.items():
            try:
                timed[variant] = _open(opener, feeds, stack)
            except EdgetlError as error:
                results[variant] = error
        for _ in range(ROUNDS):
            for variant, entry in timed.items():
                if variant in results:
                    continue
                try:
                    entry.runs_ms += _one_round(entry.session, feeds, options.seconds / ROUNDS)
                except EdgetlError as error:
                    results[variant] = error
    return {variant: results.get(variant) or _summary(timed[variant], options) for variant in openers}


def median_preprocess_ms(sources: Sequence[ImageSource], spec: Preprocess) -> float:
    """Median milliseconds from an image to its tensor, over `sources`, one at a time."""
    times = []
    for source in sources:
        start = time.perf_counter_ns()
        preprocess(source, spec)
        times.append(_since_ms(start))
    return float(np.median(times))


def _open(opener: Callable[[], Session], feeds: Tensors, stack: ExitStack) -> _Timed:
    start = time.perf_counter_ns()
    session = stack.enter_context(opener())
    load_ms = _since_ms(start)
    start = time.perf_counter_ns()
    session.run(feeds)
    return _Timed(session, load_ms, first_ms=_since_ms(start), runs_ms=[])


def _summary(timed: _Timed, options: LatencyOptions) -> Latency:
    stats = LatencyStats.of(timed.runs_ms)
    return Latency(
        threads=options.threads,
        n=stats.n,
        p50_ms=stats.p50_ms,
        p95_ms=stats.p95_ms,
        load_ms=timed.load_ms,
        first_ms=timed.first_ms,
        preprocess_ms=options.preprocess_ms,
    )


def _one_round(session: Session, feeds: Tensors, seconds: float) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        session.run(feeds)
    times: list[float] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(times) < LEAST_RUNS or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        session.run(feeds)
        times.append(_since_ms(start))
    return times


def _since_ms(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1e6
