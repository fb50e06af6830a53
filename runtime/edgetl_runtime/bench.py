"""How fast variants are on this machine: load, first run, preprocessing and the steady state, each on its own clock.

The variants take turns in short rounds, so that a machine that warms up, slows down or has other work slows them all
alike, and their ratios hold.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Preprocess, Variant
from edgetl_runtime.npy import write_npy
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.timing import LatencyStats, Stopwatch, measure
from edgetl_runtime.trial import death, try_variants

__all__ = ["ROUNDS", "BenchOptions", "VariantLatency", "bench_image", "bench_variants", "interleave", "settle"]

ROUNDS = 8
_LEAST_RUNS = 3  # per round, so that a slow model still gets a median
_WARM_UP_RUNS = 2  # per round: another variant has had the caches
_PREPROCESS_REPEATS = 10
_MOST_AT_ONCE = 12
_SETTLING_RUNS = 5  # whose median is compared with that of the five before
_SETTLED = 0.05  # how near those medians are to each other


@dataclass(frozen=True)
class BenchOptions:
    """``threads``: cores of one run, None for all; ``seconds``: how long the steady state of a variant is measured;
    ``device``, ``device_options`` and ``strict`` as in `load`."""

    threads: int | None = None
    seconds: float = 2.0
    device: str = "cpu"
    device_options: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"cannot measure for {self.seconds} s", fix="seconds > 0")


@dataclass(frozen=True)
class VariantLatency:
    """Latency of one variant, in milliseconds.

    ``load_ms``: from files to a session ready to run, hashes included, the engine's library imported before;
    ``first_ms``: the first run; ``preprocess_ms``: median of decoding, resizing and cropping one image, the same for
    every variant; ``run``: one image, batch 1, after warm-up; ``rounds_ms``: the median of each round, in order.
    """

    id: str
    engine: str
    engine_version: str
    bytes: int
    threads: int
    load_ms: float
    first_ms: float
    preprocess_ms: float
    run: LatencyStats
    rounds_ms: tuple[float, ...]


@dataclass
class _Loaded:
    variant: Variant
    session: Session
    clocks: Stopwatch = field(default_factory=Stopwatch)


def bench_image(bundle: Bundle) -> tuple[bytes, str]:
    """An image file to measure with, and what it is: the first golden sample, else noise of 640x480.

    The noise is a JPEG where the model takes grey or RGB images, else a .npy file.
    """
    golden = bundle.golden()
    if golden is not None and golden.images:
        return golden.images[0], f"golden sample {golden.names[0]}"
    channels = bundle.manifest.preprocess.channels
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3 if channels == 1 else channels), dtype=np.uint8)
    if channels not in (1, 3):
        return write_npy(pixels), "noise 640x480, .npy"
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue(), "noise 640x480, JPEG"


def bench_variants(
    bundle: Bundle,
    ids: Sequence[str],
    image: bytes,
    options: BenchOptions,
    *,
    note: Callable[[str], None] | None = None,
) -> list[VariantLatency]:
    """Measure the variants `ids` side by side with `image` (the bytes of an image file), in their order.

    All sessions are open at once: beyond 12 variants those of one engine at a time. `note` is told which variants
    are about to be measured. All are run in a child process first. Raises `MissingDependency` when an engine is not
    installed, `EngineError` when it cannot run a variant, or a variant ends its process.
    """
    trials = try_variants(
        dict.fromkeys(ids, bundle.path),
        threads=options.threads,
        device=options.device,
        device_options=options.device_options,
        strict=options.strict,
    )
    for variant_id, how in trials.died.items():
        raise death(variant_id, how)
    spec = bundle.manifest.preprocess
    preprocessing = _preprocess_ms(image, spec)
    feeds = {bundle.manifest.input.name: preprocess(image, spec)[np.newaxis]}
    found: dict[str, VariantLatency] = {}
    for group in _groups([bundle.manifest.variant(id_) for id_ in ids]):
        if note is not None:
            note(f"measuring {', '.join(variant.id for variant in group)} in turns ...")
        with ExitStack() as stack:
            loaded = [_load(bundle, variant, feeds, options, stack) for variant in group]
            calls = [_call(item.session, feeds) for item in loaded]
            for item, rounds in zip(loaded, interleave(calls, seconds=options.seconds), strict=True):
                found[item.variant.id] = _summary(item, rounds, preprocessing, options)
    return [found[id_] for id_ in ids]


def interleave(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float,
    rounds: int = ROUNDS,
    failed: Callable[[int, EdgetlError], None] | None = None,
) -> list[list[list[float]]]:
    """Time every call of `calls` for about `seconds` in all, in `rounds` rounds of turns: milliseconds by call, then
    by round. Every other round goes backwards, so that a steady drift favours neither the first nor the last.

    A call that raises an `EdgetlError` is left out from there on and `failed` is told its position; without `failed`
    the error ends the measurement.
    """
    found: list[list[list[float]]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for _ in range(rounds):
        for position in tuple(order):
            try:
                found[position].append(_turn(calls[position], seconds / rounds))
            except EdgetlError as error:
                if failed is None:
                    raise
                failed(position, error)
                order.remove(position)
        order.reverse()
    return found


def settle(call: Callable[[], object], *, seconds: float = 1.0) -> None:
    """Run `call` until its time is stable: five runs whose median is within 5 % of the median of the five before.

    Gives up after `seconds`, on a machine that never settles.
    """
    end, before = time.perf_counter_ns() + int(seconds * 1e9), 0.0
    while True:
        times = []
        for _ in range(_SETTLING_RUNS):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        now = float(np.median(times))
        if abs(now - before) <= _SETTLED * before or time.perf_counter_ns() >= end:
            return
        before = now


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    for _ in range(_WARM_UP_RUNS):
        call()
    times: list[float] = []
    before = time.perf_counter_ns()
    end = before + int(seconds * 1e9)
    while before < end or len(times) < _LEAST_RUNS:
        call()
        after = time.perf_counter_ns()
        times.append((after - before) / 1e6)
        before = after
    return times


def _groups(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants that are open at the same time: all, or those of one engine when they are too many for a device."""
    if len(variants) <= _MOST_AT_ONCE:
        return [list(variants)]
    engines = dict.fromkeys(variant.requires.engine for variant in variants)
    return [[variant for variant in variants if variant.requires.engine == engine] for engine in engines]


def _load(bundle: Bundle, variant: Variant, feeds: Tensors, options: BenchOptions, stack: ExitStack) -> _Loaded:
    clocks = Stopwatch()
    # Twice, because the first one pays for importing the library: a device pays that once, whatever it loads.
    _open(bundle, variant, options).close()
    with clocks("load"):
        session = stack.enter_context(_open(bundle, variant, options))
    with clocks("first"):
        session.run(feeds)
    return _Loaded(variant, session, clocks)


def _open(bundle: Bundle, variant: Variant, options: BenchOptions) -> Session:
    return bundle.session(
        variant.id,
        threads=options.threads,
        device=options.device,
        device_options=options.device_options,
        strict=options.strict,
    )


def _call(session: Session, feeds: Tensors) -> Callable[[], object]:
    return lambda: session.run(feeds)


def _preprocess_ms(image: bytes, spec: Preprocess) -> float:
    stats = measure(lambda: preprocess(image, spec), seconds=0.2, min_n=_PREPROCESS_REPEATS, max_n=200, warmup=1)
    return stats.p50_ms


def _summary(
    item: _Loaded, rounds: Sequence[list[float]], preprocess_ms: float, options: BenchOptions
) -> VariantLatency:
    return VariantLatency(
        id=item.variant.id,
        engine=item.session.engine,
        engine_version=item.session.engine_version,
        bytes=item.variant.bytes,
        threads=options.threads or usable_cores(),
        load_ms=item.clocks.ms["load"],
        first_ms=item.clocks.ms["first"],
        preprocess_ms=preprocess_ms,
        run=LatencyStats.of([time_ms for times in rounds for time_ms in times]),
        rounds_ms=tuple(float(np.median(times)) for times in rounds),
    )
