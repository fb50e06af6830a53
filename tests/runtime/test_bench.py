"""Latency of a variant, each part on its own clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime import MissingDependency, UsageError, load_image, open_bundle
from edgetl_runtime.bench import BenchOptions, bench_image, bench_variant


@pytest.mark.parametrize("variant", ["onnx.fp32", "tflite.fp32", "openvino.fp32"])
def test_every_clock_runs(variant: str, pristine_bundle: Path, red_photo: bytes) -> None:
    bundle = open_bundle(pristine_bundle)
    result = bench_variant(bundle, variant, red_photo, BenchOptions(threads=1, seconds=0.02))
    assert (result.id, result.threads, result.bytes) == (variant, 1, bundle.manifest.variant(variant).bytes)
    assert min(result.load_ms, result.first_ms, result.preprocess_ms, result.run.min_ms) > 0
    assert result.run.n >= 20
    assert result.run.p50_ms <= result.run.p95_ms


def test_image_is_a_golden_sample_where_there_are_some(pristine_bundle: Path) -> None:
    content, what = bench_image(open_bundle(pristine_bundle))
    assert content == (pristine_bundle / "golden/00.png").read_bytes()
    assert what == "golden sample 00.png"
    content, what = bench_image(open_bundle(pristine_bundle / "onnx/model.fp32.onnx"))
    assert load_image(content).size == (640, 480)
    assert "noise" in what


def test_what_cannot_be_measured(pristine_bundle: Path, red_photo: bytes, no_engines: Callable[..., None]) -> None:
    bundle = open_bundle(pristine_bundle)
    with pytest.raises(UsageError, match="cannot measure"):
        bench_variant(bundle, "onnx.fp32", red_photo, BenchOptions(seconds=-1))
    no_engines("openvino")
    with pytest.raises(MissingDependency):
        bench_variant(bundle, "openvino.fp32", red_photo, BenchOptions())
