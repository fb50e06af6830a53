"""How fast variants are on this machine: load, first run, preprocessing and the steady state, each on its own clock."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import UsageError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Preprocess, Variant
from edgetl_runtime.npy import write_npy
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.racing import Entrant, Race, Turns
from edgetl_runtime.session import Session
from edgetl_runtime.timing import LatencyStats, measure
from edgetl_runtime.trial import death, try_variants

__all__ = ["BenchOptions", "VariantLatency", "bench_image", "bench_variants"]

_PREPROCESS_REPEATS = 10
_MOST_AT_ONCE = 12


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
    every variant; ``run``: one image, alone in its run, after warm-up; ``rounds_ms``: the median of each round, in
    order. ``batch`` is how many images the variant takes in one run, -1 any number: a fixed batch was filled up.
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
    batch: int = 1


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
    latencies: dict[str, VariantLatency] = {}
    for group in _groups([bundle.manifest.variant(id_) for id_ in ids]):
        if note is not None:
            note(f"measuring {', '.join(variant.id for variant in group)} in turns ...")
        with Race(dropping=()) as race:
            for variant in group:
                # Twice, because the first one pays for importing the library: a device pays that once.
                _open(bundle, variant, options).close()
                race.enter(variant.id, partial(_open, bundle, variant, options), feeds)
            rounds = race.go(Turns(options.seconds))
            for variant in group:
                entrant = race.entrants[variant.id]
                latencies[variant.id] = _summary(variant, entrant, rounds[variant.id], preprocessing, options)
    return [latencies[id_] for id_ in ids]


def _groups(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants that are open at the same time: all, or those of one engine when they are too many for a device."""
    if len(variants) <= _MOST_AT_ONCE:
        return [list(variants)]
    engines = dict.fromkeys(variant.requires.engine for variant in variants)
    return [[variant for variant in variants if variant.requires.engine == engine] for engine in engines]


def _open(bundle: Bundle, variant: Variant, options: BenchOptions) -> Session:
    return bundle.session(
        variant.id,
        threads=options.threads,
        device=options.device,
        device_options=options.device_options,
        strict=options.strict,
    )


def _preprocess_ms(image: bytes, spec: Preprocess) -> float:
    stats = measure(lambda: preprocess(image, spec), seconds=0.2, min_n=_PREPROCESS_REPEATS, max_n=200, warmup=1)
    return stats.p50_ms


def _summary(
    variant: Variant, entrant: Entrant, rounds: Sequence[list[float]], preprocess_ms: float, options: BenchOptions
) -> VariantLatency:
    return VariantLatency(
        id=variant.id,
        engine=entrant.session.engine,
        engine_version=entrant.session.engine_version,
        bytes=variant.bytes,
        threads=options.threads or usable_cores(),
        load_ms=entrant.clocks.ms["load"],
        first_ms=entrant.clocks.ms["first"],
        preprocess_ms=preprocess_ms,
        run=LatencyStats.of([time_ms for times in rounds for time_ms in times]),
        rounds_ms=tuple(float(np.median(times)) for times in rounds),
        batch=entrant.session.inputs[0].shape[0],
    )
