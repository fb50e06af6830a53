from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgetl.verify.gate import Gate, judge, read_gate
from edgetl.verify.gate_writing import propose_gate, write_gate
from edgetl.verify.report import Memory, Report
from edgetl_runtime.errors import OutputError


@pytest.fixture
def measured(report: Report) -> Report:
    """Everything measured; without the two variants that are broken."""
    variants = []
    for variant in report.variants:
        if variant.latency is None or variant.accuracy is None or variant.id == "tflite.int8":
            continue
        ratio = variant.latency.p50_ms / 8.0
        latency = replace(
            variant.latency,
            ratio=ratio,
            ratio_ci95=(ratio * 0.97, ratio * 1.1),
            rounds_ms=(variant.latency.p50_ms,) * 12,
            reference="onnx.fp32",
        )
        accuracy = replace(variant.accuracy, class_delta=-0.03)
        memory = Memory(123_456_789, cold_start_ms=612.3)
        variants.append(replace(variant, latency=latency, accuracy=accuracy, memory=memory))
    return replace(report, variants=tuple(variants), verdict=judge(variants, Gate()))


def test_what_is_proposed(measured: Report) -> None:
    proposed = tomllib.loads(propose_gate(measured).text)
    assert proposed["reference"] == "onnx.fp32"
    assert list(proposed["variant"]) == [variant.id for variant in measured.variants]
    assert proposed["variant"]["onnx.int8"] == {
        "top1_agreement": 0.97,  # 361 of 367 are 98.4 %
        "sqnr_db": 19.0,
        "delta": -0.02,  # 2 of 367 are 0.5 points
        "class_delta": -0.08,
        "p50_ratio": 0.48,  # 3 of 8 ms, perhaps 10 % more, and 15 % more than that
        "bytes": 2_450_000,
        "peak_rss_bytes": 150_000_000,
        "cold_start_ms": 920,
    }
    assert proposed["variant"]["onnx.fp32"]["sqnr_db"] == 80
    assert "p50_ratio" not in proposed["variant"]["onnx.fp32"], "it is the reference itself"


def test_the_proposed_gate_passes_on_its_report(measured: Report, tmp_path: Path) -> None:
    write_gate(measured, tmp_path / "gate.toml")
    verdict = judge(measured.variants, read_gate(tmp_path / "gate.toml"))
    assert verdict.passed, verdict.failed
    assert not verdict.undecided
    assert len(verdict.checks) > 50


def test_a_little_worse_is_found(measured: Report, tmp_path: Path) -> None:
    write_gate(measured, tmp_path / "gate.toml")
    gate = read_gate(tmp_path / "gate.toml")
    fat = [replace(variant, bytes=round((variant.bytes or 0) * 1.05)) for variant in measured.variants]
    assert {check.what for check in judge(fat, gate).failed} == {"bytes"}


def test_what_failed_does_not_become_the_measure(report: Report) -> None:
    text = propose_gate(report).text
    assert "# tflite.int8 failed: the built-in limits stay." in text
    assert set(tomllib.loads(text)["variant"]) == {v.id for v in report.variants} - {"tflite.int8", "openvino.int8"}


def test_limits_that_somebody_chose_are_not_lost(measured: Report, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_gate(measured, path)
    assert path.read_text() == "mine"
    write_gate(measured, path, force=True)
    assert read_gate(path).variant
