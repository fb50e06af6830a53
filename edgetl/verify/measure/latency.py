"""Latency: what one image costs, measured so that the variants can be compared with each other.

The variants take turns in short rounds (`edgetl_runtime.bench.interleave`), so that a machine that slows down, warms up
or has other work slows them all alike, and their ratios hold. A round counts by its median. Every number has a 95 %
interval from a bootstrap over rounds (`edgetl.stats`); where it does not decide, the rounds are doubled.

Rounds in which other programs had the core for a part of the time are left out when there are enough calm ones, so
that what is measured again, after the machine came to rest, counts. When there are not, that share is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetl.stats import median_spread, percentile_ratio_spread, percentile_spread, ratio_spread
from edgetl.verify.measure.system_load import Moment, describe_system_load, read_moment, waited_share
from edgetl.verify.report import Latency
from edgetl_runtime.bench import interleave, settle
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, preprocess
from edgetl_runtime.session import Session, Tensors

__all__ = [
    "ROUNDS",
    "Latencies",
    "LatencyOptions",
    "default_latency_baseline",
    "fp32_of",
    "measure_latency",
    "median_preprocess_ms",
]

ROUNDS = 20
_CALM = 0.05
"""Share of a block in which this process may have waited for a core: more is left out, where that is possible."""
_BLOCK = 2
"""Rounds between two looks at the machine: there and back again, so that each block is fair in itself."""


@dataclass(frozen=True)
class LatencyOptions:
    """``seconds`` of runs per variant, at most ``most_times`` as many where that does not decide.

    ``threads`` and ``preprocess_ms`` are what the results will say; ``reference`` is the variant that ratios are
    against, by default `default_latency_baseline`.
    """

    threads: int
    seconds: float
    preprocess_ms: float
    reference: str | None = None
    most_times: int = 4


@dataclass(frozen=True)
class Latencies:
    """By variant id its latency, or the error that stopped it; and what disturbed the measurement, in words."""

    variants: dict[str, Latency | EdgetlError]
    disturbances: tuple[str, ...] = ()

    @property
    def measured(self) -> dict[str, Latency]:
        """Those without an error."""
        return {id_: found for id_, found in self.variants.items() if isinstance(found, Latency)}


def measure_latency(
    openers: Mapping[str, Callable[[], Session]],
    feeds: Tensors,
    options: LatencyOptions,
    *,
    undecided: Callable[[Mapping[str, Latency]], Iterable[str]] = lambda latencies: (),
) -> Latencies:
    """Time each variant, `openers` load its session; `feeds` are the input tensors of one image.

    After the first rounds, and again after every doubling, `undecided` is asked which variants need to be measured
    longer. They are, beside those that they are compared with.
    """
    reference = options.reference or default_latency_baseline(openers)
    with ExitStack() as stack:
        race = _Race(feeds, options, reference)
        for variant, opener in openers.items():
            race.enter(variant, opener, stack)
        race.settle()
        race.go(ROUNDS, list(race.timed))
        found, times = race.latencies(), 1
        while times * 2 <= options.most_times:
            longer = {variant for variant in undecided(found) if variant in found}
            if not longer:
                break
            # Nothing is compared with one that is not measured in the same rounds.
            beside = {reference, *map(fp32_of, longer)}
            race.go(ROUNDS * times, [variant for variant in found if variant in longer or variant in beside])
            found, times = race.latencies(), times * 2
    variants = {variant: race.errors.get(variant) or found[variant] for variant in openers}
    return Latencies(variants, describe_system_load(race.moments))


def default_latency_baseline(variants: Iterable[str]) -> str | None:
    """What ratios are against when nobody says: fp32 of onnx, else the first fp32, else nothing."""
    single = [variant for variant in variants if variant.endswith(".fp32")]
    return "onnx.fp32" if "onnx.fp32" in single else next(iter(single), None)


def fp32_of(variant: str) -> str:
    """The id of fp32 of the same target."""
    return f"{variant.partition('.')[0]}.fp32"


def median_preprocess_ms(sources: Sequence[ImageSource], spec: Preprocess) -> float:
    """Median milliseconds from an image to its tensor, over `sources`, one at a time."""
    times = []
    for source in sources:
        start = time.perf_counter_ns()
        preprocess(source, spec)
        times.append(_since_ms(start))
    return float(np.median(times))


@dataclass
class _Timed:
    """A session, and its runs in milliseconds by the number of the round."""

    session: Session
    load_ms: float
    first_ms: float
    start_waited: float | None = None
    rounds: dict[int, list[float]] = field(default_factory=dict)

    def medians(self, rounds: Sequence[int]) -> list[float]:
        return [float(np.median(self.rounds[number])) for number in rounds]


@dataclass
class _Race:
    """The variants side by side: what they took so far, the errors of those that dropped out, looks at the machine.

    ``spans`` are the moments before and after each round's block.
    """

    feeds: Tensors
    options: LatencyOptions
    reference: str | None
    timed: dict[str, _Timed] = field(default_factory=dict)
    errors: dict[str, EdgetlError] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    spans: dict[int, tuple[Moment, Moment]] = field(default_factory=dict)

    def enter(self, variant: str, opener: Callable[[], Session], stack: ExitStack) -> None:
        """Load it and run it once, each on its own clock."""
        try:
            before = read_moment()
            start = time.perf_counter_ns()
            session = stack.enter_context(opener())
            load_ms = _since_ms(start)
            start = time.perf_counter_ns()
            session.run(self.feeds)
            first_ms = _since_ms(start)
            self.timed[variant] = _Timed(session, load_ms, first_ms, waited_share([(before, read_moment())]))
        except EdgetlError as error:
            self.errors[variant] = error

    def settle(self) -> None:
        """Warm all up until their times are stable."""
        for variant in self.timed:
            try:
                settle(self._call(variant), seconds=self.options.seconds)
            except EdgetlError as error:
                self.errors[variant] = error

    def go(self, rounds: int, variants: Sequence[str]) -> None:
        """Measure `variants` for so many more rounds, `ROUNDS` of which take the options' seconds."""
        first = 1 + max((number for entry in self.timed.values() for number in entry.rounds), default=-1)
        self.moments.append(read_moment())
        for start in range(first, first + rounds, _BLOCK):
            names = [variant for variant in variants if variant not in self.errors]
            failed: dict[int, EdgetlError] = {}
            blocks = interleave(
                [self._call(name) for name in names],
                seconds=self.options.seconds * _BLOCK / ROUNDS,
                rounds=_BLOCK,
                failed=failed.__setitem__,
            )
            self.errors |= {names[position]: error for position, error in failed.items()}
            for name, block in zip(names, blocks, strict=True):
                self.timed[name].rounds.update(enumerate(block, start))
            self.moments.append(read_moment())
            span = (self.moments[-2], self.moments[-1])
            self.spans.update(dict.fromkeys(range(start, start + _BLOCK), span))

    def latencies(self) -> dict[str, Latency]:
        """What is known so far of those that did not drop out."""
        return {variant: self._latency(variant) for variant in self.timed if variant not in self.errors}

    def _latency(self, variant: str) -> Latency:
        own = self.timed[variant]
        counted = self._calm(sorted(own.rounds))
        medians = own.medians(counted)
        p50, p50_ci95 = median_spread(medians)
        p95, p95_ci95 = percentile_spread([own.rounds[i] for i in counted], 95)
        return Latency(
            threads=self.options.threads,
            n=sum(len(own.rounds[i]) for i in counted),
            p50_ms=p50,
            p95_ms=p95,
            load_ms=own.load_ms,
            first_ms=own.first_ms,
            preprocess_ms=self.options.preprocess_ms,
            rounds_ms=tuple(medians),
            p50_ci95=p50_ci95,
            p95_ci95=p95_ci95,
            waited=waited_share([self.spans[i] for i in counted]),
            start_waited=own.start_waited,
            **self._beside_baseline(own, counted),
            **self._beside_fp32(variant, counted),
        )

    def _calm(self, rounds: Sequence[int]) -> list[int]:
        """Those `rounds` in which this process had its core, when they are enough; else all of them."""
        waits = {i: waited_share([self.spans[i]]) for i in rounds}
        calm = [i for i in rounds if (waits[i] or 0.0) <= _CALM]
        return calm if len(calm) >= ROUNDS else list(rounds)

    def _beside_baseline(self, own: _Timed, counted: Sequence[int]) -> dict[str, Any]:
        other = self._running(self.reference)
        if other is None:
            return {}
        both = [i for i in counted if i in other.rounds]
        ratio, ratio_ci95 = ratio_spread(own.medians(both), other.medians(both))
        p95_ratio, p95_ratio_ci95 = percentile_ratio_spread(
            [own.rounds[i] for i in both], [other.rounds[i] for i in both], 95
        )
        return {
            "reference": self.reference,
            "ratio": ratio,
            "ratio_ci95": ratio_ci95,
            "p95_ratio": p95_ratio,
            "p95_ratio_ci95": p95_ratio_ci95,
        }

    def _beside_fp32(self, variant: str, counted: Sequence[int]) -> dict[str, Any]:
        other = self._running(fp32_of(variant))
        if other is None:
            return {}
        both = [i for i in counted if i in other.rounds]
        speedup, speedup_ci95 = ratio_spread(other.medians(both), self.timed[variant].medians(both))
        return {"speedup": speedup, "speedup_ci95": speedup_ci95}

    def _running(self, variant: str | None) -> _Timed | None:
        return None if variant is None or variant in self.errors else self.timed.get(variant)

    def _call(self, variant: str) -> Callable[[], object]:
        session = self.timed[variant].session
        return lambda: session.run(self.feeds)


def _since_ms(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1e6
