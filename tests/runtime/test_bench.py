"""Latency of a variant, each part on its own clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime import MissingDependency, UsageError, load_image, open_bundle
from edgetl_runtime import bench as bench_module
from edgetl_runtime.bench import BenchOptions, bench_image, bench_variants
from edgetl_runtime.racing import ROUNDS


def test_every_clock_of_every_variant_runs(pristine_bundle: Path, red_photo: bytes) -> None:
    bundle, ids = open_bundle(pristine_bundle), ["openvino.fp32", "onnx.fp32", "tflite.fp32"]
    notes: list[str] = []
    results = bench_variants(bundle, ids, red_photo, BenchOptions(threads=1, seconds=0.02), note=notes.append)
    assert [result.id for result in results] == ids
    for result in results:
        assert (result.threads, result.bytes) == (1, bundle.manifest.variant(result.id).bytes)
        assert min(result.load_ms, result.first_ms, result.preprocess_ms, result.run.min_ms) > 0
        assert result.run.n >= 20
        assert result.run.p50_ms <= result.run.p95_ms
        assert len(result.rounds_ms) == ROUNDS
        assert result.run.min_ms <= min(result.rounds_ms)
    assert notes == ["measuring openvino.fp32, onnx.fp32, tflite.fp32 in turns ..."]


def test_too_many_variants_are_measured_engine_by_engine(
    pristine_bundle: Path, red_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "_MOST_AT_ONCE", 2)
    ids, notes = ["onnx.fp32", "tflite.fp32", "onnx.int8"], list[str]()
    bundle, options = open_bundle(pristine_bundle), BenchOptions(threads=1, seconds=0.01)
    results = bench_variants(bundle, ids, red_photo, options, note=notes.append)
    assert [result.id for result in results] == ids
    assert notes == ["measuring onnx.fp32, onnx.int8 in turns ...", "measuring tflite.fp32 in turns ..."]


def test_image_is_a_golden_sample_where_there_are_some(pristine_bundle: Path) -> None:
    content, what = bench_image(open_bundle(pristine_bundle))
    assert content == (pristine_bundle / "golden/00.png").read_bytes()
    assert what == "golden sample 00.png"
    content, what = bench_image(open_bundle(pristine_bundle / "onnx/model.fp32.onnx"))
    assert load_image(content).size == (640, 480)
    assert "noise" in what


def test_what_cannot_be_measured(pristine_bundle: Path, red_photo: bytes, no_engines: Callable[..., None]) -> None:
    bundle = open_bundle(pristine_bundle)
    for seconds in (-1, 0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="cannot measure"):
            BenchOptions(seconds=seconds)
    no_engines("openvino")
    with pytest.raises(MissingDependency):
        bench_variants(bundle, ["openvino.fp32"], red_photo, BenchOptions())
