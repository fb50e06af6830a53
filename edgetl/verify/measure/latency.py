"""Latency: what one image costs, measured so that the variants can be compared with each other.

The variants take turns in short rounds (`edgetl_runtime.racing.Race`), so that a machine that slows down, warms up
or has other work slows them all alike, and their ratios hold. A round counts by its median. Every number has a 95 %
interval from a bootstrap over rounds (`edgetl.stats`); where it does not decide, the rounds are doubled.

Rounds in which other programs had the core for a part of the time are left out when there are enough calm ones, so
that what is measured again, after the machine came to rest, counts. When there are not, that share is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from edgetl.stats import median_spread, percentile_ratio_spread, percentile_spread, ratio_spread
from edgetl.verify.measure.system_load import Moment, describe_system_load, read_moment, waited_share
from edgetl.verify.report import Latency
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, preprocess
from edgetl_runtime.racing import Entrant, Race, Turns
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.timing import Stopwatch

__all__ = [
    "ROUNDS",
    "Latencies",
    "LatencyOptions",
    "default_latency_baseline",
    "fp32_of",
    "measure_latency",
    "median_preprocess_ms",
]

_Rounds: TypeAlias = dict[int, list[float]]
"""The runs of one variant in milliseconds, by the number of the round."""
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
        return {id_: latency for id_, latency in self.variants.items() if isinstance(latency, Latency)}


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
    with Race() as race:
        measurement = _Measurement(race, options, reference)
        for variant, opener in openers.items():
            measurement.enter(variant, opener, feeds)
        race.settle(seconds=options.seconds)
        measurement.measure(ROUNDS, list(race.entrants))
        latencies, times = measurement.latencies(), 1
        while times * 2 <= options.most_times:
            longer = {variant for variant in undecided(latencies) if variant in latencies}
            if not longer:
                break
            # Nothing is compared with one that is not measured in the same rounds.
            beside = {reference, *map(fp32_of, longer)}
            measurement.measure(ROUNDS * times, [name for name in latencies if name in longer or name in beside])
            latencies, times = measurement.latencies(), times * 2
    variants = {variant: race.errors.get(variant) or latencies[variant] for variant in openers}
    return Latencies(variants, describe_system_load(measurement.moments))


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
        clock = Stopwatch()
        with clock("preprocess"):
            preprocess(source, spec)
        times.append(clock.ms["preprocess"])
    return float(np.median(times))


@dataclass
class _Measurement:
    """The race, the runs that count of each variant by the number of the round, and the looks at the machine.

    ``spans`` are the moments before and after each round's block; ``start_waited`` is the share of loading and first
    run that a variant waited for a core.
    """

    race: Race
    options: LatencyOptions
    reference: str | None
    rounds: dict[str, _Rounds] = field(default_factory=dict)
    start_waited: dict[str, float | None] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    spans: dict[int, tuple[Moment, Moment]] = field(default_factory=dict)

    def enter(self, variant: str, opener: Callable[[], Session], feeds: Tensors) -> None:
        """Load it and run it once."""
        before = read_moment()
        self.race.enter(variant, opener, feeds)
        self.start_waited[variant] = waited_share([(before, read_moment())])

    def measure(self, rounds: int, variants: Sequence[str]) -> None:
        """Measure `variants` for so many more rounds, `ROUNDS` of which take the options' seconds."""
        first = 1 + max(self.spans, default=-1)
        self.moments.append(read_moment())
        for start in range(first, first + rounds, _BLOCK):
            turns = Turns(self.options.seconds * _BLOCK / ROUNDS, rounds=_BLOCK)
            for name, block in self.race.go(turns, variants).items():
                self.rounds.setdefault(name, {}).update(enumerate(block, start))
            self.moments.append(read_moment())
            span = (self.moments[-2], self.moments[-1])
            self.spans.update(dict.fromkeys(range(start, start + _BLOCK), span))

    def latencies(self) -> dict[str, Latency]:
        """What is known so far of those that did not drop out."""
        return {variant: self._latency(variant, entrant) for variant, entrant in self.race.running.items()}

    def _latency(self, variant: str, entrant: Entrant) -> Latency:
        own = self.rounds[variant]
        counted = self._calm(sorted(own))
        medians = _medians(own, counted)
        p50, p50_ci95 = median_spread(medians)
        p95, p95_ci95 = percentile_spread([own[i] for i in counted], 95)
        return Latency(
            threads=self.options.threads,
            n=sum(len(own[i]) for i in counted),
            p50_ms=p50,
            p95_ms=p95,
            load_ms=entrant.clocks.ms["load"],
            first_ms=entrant.clocks.ms["first"],
            preprocess_ms=self.options.preprocess_ms,
            rounds_ms=tuple(medians),
            p50_ci95=p50_ci95,
            p95_ci95=p95_ci95,
            waited=waited_share([self.spans[i] for i in counted]),
            start_waited=self.start_waited[variant],
            batch=entrant.session.inputs[0].shape[0],
            **self._beside_baseline(own, counted),
            **self._beside_fp32(variant, own, counted),
        )

    def _calm(self, rounds: Sequence[int]) -> list[int]:
        """Those `rounds` in which this process had its core, when they are enough; else all of them."""
        waits = {i: waited_share([self.spans[i]]) for i in rounds}
        calm = [i for i in rounds if (waits[i] or 0.0) <= _CALM]
        return calm if len(calm) >= ROUNDS else list(rounds)

    def _beside_baseline(self, own: _Rounds, counted: Sequence[int]) -> dict[str, Any]:
        other = self._running(self.reference)
        if other is None:
            return {}
        both = [i for i in counted if i in other]
        ratio, ratio_ci95 = ratio_spread(_medians(own, both), _medians(other, both))
        p95_ratio, p95_ratio_ci95 = percentile_ratio_spread([own[i] for i in both], [other[i] for i in both], 95)
        return {
            "reference": self.reference,
            "ratio": ratio,
            "ratio_ci95": ratio_ci95,
            "p95_ratio": p95_ratio,
            "p95_ratio_ci95": p95_ratio_ci95,
        }

    def _beside_fp32(self, variant: str, own: _Rounds, counted: Sequence[int]) -> dict[str, Any]:
        other = self._running(fp32_of(variant))
        if other is None:
            return {}
        both = [i for i in counted if i in other]
        speedup, speedup_ci95 = ratio_spread(_medians(other, both), _medians(own, both))
        return {"speedup": speedup, "speedup_ci95": speedup_ci95}

    def _running(self, variant: str | None) -> _Rounds | None:
        return None if variant is None or variant in self.race.errors else self.rounds.get(variant)


def _medians(rounds: _Rounds, numbers: Sequence[int]) -> list[float]:
    return [float(np.median(rounds[number])) for number in numbers]
