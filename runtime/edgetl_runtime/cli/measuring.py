"""edgetl-run bench and self-test: how fast variants are here, and whether they compute what was verified."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from edgetl_runtime import console
from edgetl_runtime.advice import Advice, Recommendation, advise
from edgetl_runtime.bench import BenchOptions, VariantLatency, bench_image, bench_variants
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.cli.options import device_of
from edgetl_runtime.commands import split_names
from edgetl_runtime.engines import engine_info, import_for
from edgetl_runtime.errors import EngineError
from edgetl_runtime.machine import cpu_features, describe_machine
from edgetl_runtime.manifest import Variant
from edgetl_runtime.preflight import Obstacle, obstacle
from edgetl_runtime.selftest import SelfTest, self_test
from edgetl_runtime.verification import read_verified

__all__ = ["bench", "self_test_command"]


def bench(arguments: argparse.Namespace) -> int:
    """Measure every variant that runs here - load, first run, preprocessing, steady state - and say which to ship."""
    bundle = open_bundle(arguments.bundle)
    able, unable = _split(_wanted(bundle, arguments.variants, arguments.engine))
    verified = read_verified(bundle)
    if arguments.image is None:
        image, what = bench_image(bundle)
    else:
        image, what = console.read_image(arguments.image), arguments.image
    device = device_of(arguments)
    options = BenchOptions(arguments.threads, arguments.seconds, strict=arguments.strict, **device)
    results = bench_variants(bundle, [variant.id for variant in able], image, options, note=console.note)
    features = cpu_features()
    advice = advise(results, verified, features)
    rows = []
    for result in results:
        times = (result.load_ms, result.first_ms, result.preprocess_ms, result.run.p50_ms, result.run.p95_ms)
        rows.append([result.id, *(f"{time:.2f}" for time in times), console.size(result.bytes)])
    lines = [
        f"milliseconds, {_batches(results)}, {arguments.threads or 'all'} threads, device {arguments.device}; "
        f"image: {what}",
        *console.table(["variant", "load", "first", "preprocess", "p50", "p95", "size"], rows),
        *_not_run(unable),
        "",
        *_advice_lines(advice),
    ]
    document = {
        "bundle": str(bundle.path),
        "machine": describe_machine(),
        "cpu_features": dataclasses.asdict(features),
        "image": what,
        "variants": [_report_entry(dataclasses.asdict(result)) for result in results],
        "not_run": [{"id": found.variant, "problem": str(found.error)} for found in unable],
        "advice": dataclasses.asdict(advice),
    }
    console.show(lines, document, arguments.json)
    return 0


def _batches(results: Sequence[VariantLatency]) -> str:
    """How many images are in the runs that were timed: one, and what fills a fixed batch up."""
    sizes = sorted({max(1, result.batch) for result in results})
    filled_up = "" if sizes == [1] else " (one image, filled up)"
    return f"batch {', '.join(map(str, sizes))}{filled_up}"


def _advice_lines(advice: Advice) -> list[str]:
    """The advice for people: the reasons that already stand at the top are not said again at its engine."""
    overall = advice.recommendation
    lines = [f"to ship on this device: {_pick(overall)}", *(f"  {reason}" for reason in overall.reasons)]
    for engine in advice.engines:
        said = engine.recommendation.variant == overall.variant
        reasons = () if said else engine.recommendation.reasons
        if len(advice.engines) > 1:
            lines.append(f"in {engine.engine}: {_pick(engine.recommendation)}")
        lines += [f"  {line}" for line in (*reasons, *engine.passed_over)]
    return [*lines, *(f"note: {note}" for note in advice.notes)]


def _pick(recommendation: Recommendation) -> str:
    if recommendation.variant is None:
        return "none"
    return recommendation.variant if recommendation.verified else f"{recommendation.variant}, once it is verified"


def self_test_command(arguments: argparse.Namespace) -> int:
    """Run the golden samples through every variant that runs here; exit code 1 when the device computes otherwise."""
    bundle = open_bundle(arguments.bundle)
    able, unable = _split(_wanted(bundle, arguments.variants, "auto"))
    bundle.check()
    ids = tuple(variant.id for variant in able)
    result = self_test(
        bundle, variant_ids=ids, threads=arguments.threads, strict=arguments.strict, **device_of(arguments)
    )
    document = {"bundle": str(bundle.path), "machine": describe_machine(), "passed": result.passed}
    not_run = [{"id": found.variant, "problem": str(found.error)} for found in unable]
    tests = {**dataclasses.asdict(result), "not_run": not_run}
    console.show(_self_test_lines(result, unable), {**document, **tests}, arguments.json)
    return 0 if result.passed else 1


def _self_test_lines(result: SelfTest, unable: list[Obstacle]) -> list[str]:
    rows = []
    for test in result.variants:
        numbers = ["-"] * 3
        if test.agreement is not None:
            numbers[0] = f"{round(test.agreement * test.n)}/{test.n}"
        if test.sqnr_db is not None and test.max_abs is not None:
            numbers[1:] = [f"{test.sqnr_db:.1f}", f"{test.max_abs:.3g}"]
        state = "ok" if test.passed else f"FAILED: {test.problem}"
        known = "" if test.counted else " (failed verification when it was exported: not counted)"
        rows.append([test.id, f"{test.engine} {test.engine_version}", *numbers, state + known])
    if result.golden:
        pixels = [f"preprocessing of {result.golden} golden samples: largest difference {result.pixels} grey levels"]
        pixels += [f"  {name}: {levels} grey levels" for name, levels in result.other_pixels]
    else:
        pixels = ["no golden samples here: only checked that the model runs and its output is finite"]
    return [
        *pixels,
        *console.table(["variant", "engine", "same", "SQNR dB", "max abs", "result"], rows),
        *(f"{test.id}: {other}" for test in result.variants for other in test.others),
        *_features(result),
        *_not_run(unable),
        "self-test passed" if result.passed else "self-test FAILED",
    ]


def _features(result: SelfTest) -> list[str]:
    """A line for every feature: its SQNR by variant."""
    found: dict[str, list[str]] = {}
    for test in result.variants:
        for feature in test.features:
            found.setdefault(feature.name, []).append(f"{test.id} {feature.sqnr_db:.1f}")
    return [f"{name} (SQNR dB): {', '.join(numbers)}" for name, numbers in found.items()]


def _wanted(bundle: Bundle, ids: str | None, engine: str) -> list[Variant]:
    """The variants that the options name; `EngineError` when they name none."""
    engine = engine if engine == "auto" else engine_info(engine).name
    named = [bundle.manifest.variant(id_) for id_ in split_names(ids)] if ids else bundle.manifest.variants
    wanted = [variant for variant in named if engine in ("auto", variant.requires.engine)]
    if not wanted:
        left_out = bundle.manifest.left_out
        raise EngineError(f"{bundle.path} has no such variant for engine {engine}{left_out}", fix="leave --engine out")
    return wanted


def _split(wanted: list[Variant]) -> tuple[list[Variant], list[Obstacle]]:
    """Those that can run here, and why the others cannot; the first reason as an error when none can."""
    found = [(variant, obstacle(variant) or _unusable(variant)) for variant in wanted]
    unable = [problem for _, problem in found if problem is not None]
    if len(unable) == len(wanted):
        raise unable[0].error
    return [variant for variant, problem in found if problem is None], unable


def _unusable(variant: Variant) -> Obstacle | None:
    """Why the library that `variant` needs cannot be imported, None when it can."""
    info = engine_info(variant.requires.engine)
    try:
        import_for(info.name, info.module)
    except EngineError as error:
        return Obstacle(variant.id, error)
    return None


def _not_run(unable: list[Obstacle]) -> list[str]:
    return [f"not run: {found.variant}: {' '.join(str(found.error).split())}" for found in unable]


def _report_entry(result: dict[str, Any]) -> dict[str, Any]:
    """A `VariantLatency` as report.json has it: identity on top, all times under "latency"."""
    identity = {key: result.pop(key) for key in ("id", "engine", "engine_version", "bytes")}
    return {**identity, "latency": {**result.pop("run"), **result}}
