"""How fast a variant is on this machine: load, first run, preprocessing and the steady state, each on its own clock."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.timing import LatencyStats, Stopwatch, measure

__all__ = ["BenchOptions", "VariantLatency", "bench_image", "bench_variant"]

_PREPROCESS_REPEATS = 10


@dataclass(frozen=True)
class BenchOptions:
    """``threads``: cores of one run, None for all; ``seconds``: how long the steady state of a variant is measured."""

    threads: int | None = None
    seconds: float = 2.0


@dataclass(frozen=True)
class VariantLatency:
    """Latency of one variant, in milliseconds.

    ``load_ms``: from files to a session ready to run, hashes included, the engine's library imported before;
    ``first_ms``: the first run; ``preprocess_ms``: median of decoding, resizing and cropping one image;
    ``run``: one image, batch 1, after warm-up.
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


def bench_image(bundle: Bundle) -> tuple[bytes, str]:
    """An image file to measure with, and what it is: the first golden sample, else noise of 640x480 as a JPEG."""
    golden = bundle.golden()
    if golden is not None and golden.images:
        return golden.images[0], f"golden sample {golden.names[0]}"
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue(), "noise 640x480, JPEG"


def bench_variant(bundle: Bundle, variant_id: str, image: bytes, options: BenchOptions) -> VariantLatency:
    """Measure one variant with `image` (the bytes of an image file).

    Raises `MissingDependency` when its engine is not installed, `EngineError` when it cannot run the variant.
    """
    variant = bundle.manifest.variant(variant_id)
    spec = bundle.manifest.preprocess
    watch = Stopwatch()
    # Twice, because the first one pays for importing the library: a device pays that once, whatever it loads.
    bundle.session(variant_id, threads=options.threads).close()
    with watch("load"):
        session = bundle.session(variant_id, threads=options.threads)
    with session:
        preprocessing = measure(
            lambda: preprocess(image, spec), seconds=0.2, min_n=_PREPROCESS_REPEATS, max_n=200, warmup=1
        )
        feeds = {bundle.manifest.input.name: preprocess(image, spec)[np.newaxis]}
        with watch("first"):
            session.run(feeds)
        run = measure(lambda: session.run(feeds), seconds=options.seconds)
    return VariantLatency(
        id=variant_id,
        engine=session.engine,
        engine_version=session.engine_version,
        bytes=variant.bytes,
        threads=options.threads or usable_cores(),
        load_ms=watch.ms["load"],
        first_ms=watch.ms["first"],
        preprocess_ms=preprocessing.p50_ms,
        run=run,
    )
