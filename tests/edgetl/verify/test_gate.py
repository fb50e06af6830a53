from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgetl.verify.accuracy import Accuracy
from edgetl.verify.gate import QUANTITIES, Gate, judge, read_gate
from edgetl.verify.latency import Latency
from edgetl.verify.parity import Parity
from edgetl.verify.report import Memory, VariantReport
from edgetl_runtime.errors import UsageError


def variant(
    name: str = "onnx.int8", *, agreement: float = 0.98, sqnr: float = 22.0, delta: float = 0.0
) -> VariantReport:
    target, precision = name.split(".")
    return VariantReport(
        name,
        target,
        precision,
        bytes=1000,
        parity=Parity(100, agreement, sqnr, 0.1, 0.99),
        accuracy=Accuracy(100, 0.9, 1.0, delta, (0.8, 0.95)),
        latency=Latency(1, 10, p50_ms=2.0, p95_ms=3.0, load_ms=5.0, first_ms=4.0, preprocess_ms=1.0),
    )


def gate_file(folder: Path, text: str) -> Path:
    path = folder / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("report", "failing"),
    [
        (variant("onnx.fp32", agreement=1.0, sqnr=110), set()),
        (variant("onnx.fp32", agreement=0.99, sqnr=110), {"top1_agreement"}),
        (variant("onnx.fp32", agreement=1.0, sqnr=55), {"sqnr_db"}),
        (variant("onnx.fp16", agreement=0.99, sqnr=31), set()),
        (variant("onnx.fp16", agreement=0.98, sqnr=29), {"top1_agreement", "sqnr_db"}),
        (variant("onnx.int8"), set()),
        (variant("onnx.int8", agreement=0.94, delta=-0.03), {"top1_agreement", "delta"}),
        (variant("tflite.w8a16", agreement=0.94), {"top1_agreement"}),
    ],
)
def test_built_in_limits(report: VariantReport, failing: set[str]) -> None:
    verdict = judge([report], Gate())
    assert {check.what for check in verdict.failed} == failing
    assert verdict.passed == (not failing)
    assert verdict.checks


def test_what_was_not_measured_fails() -> None:
    verdict = judge([replace(variant(), latency=None)], Gate(default={"p95_ms": 1000.0}))
    assert [(check.what, check.value, check.note) for check in verdict.failed] == [("p95_ms", None, "not measured")]


def test_every_quantity_can_be_read_and_limited_from_both_sides() -> None:
    full = replace(variant(), memory=Memory(5000))
    for name, quantity in QUANTITIES.items():
        value = quantity.read(full)
        assert value is not None, name
        step = 1.0 if quantity.relation == "<=" else -1.0
        assert quantity.holds(value, value)
        assert quantity.holds(value, value + step)
        assert not quantity.holds(value, value - step), name


def test_a_variant_with_an_error_fails_with_its_reason() -> None:
    broken = VariantReport("tflite.int8", "tflite", "int8", error="not exported: no such operator")
    verdict = judge([variant(), broken], Gate())
    assert not verdict.passed
    assert [(check.variant, check.note) for check in verdict.failed] == [
        ("tflite.int8", "not exported: no such operator")
    ]


def test_nothing_measured_is_not_passed() -> None:
    assert not judge([], Gate()).passed


def test_more_specific_sections_override_less_specific_ones(tmp_path: Path) -> None:
    gate = read_gate(
        gate_file(
            tmp_path,
            """
            [default]
            top1_agreement = 0.5
            p50_ms = 9
            [precision.int8]
            top1_agreement = 0.6
            [target.onnx]
            top1_agreement = 0.7
            [variant."onnx.int8"]
            top1_agreement = 0.8
            """,
        )
    )

    def limits(name: str) -> dict[str, float]:
        target, precision = name.split(".")
        return gate.limits_for(name, target=target, precision=precision)

    assert limits("onnx.int8") == {"top1_agreement": 0.8, "p50_ms": 9.0, "delta": -0.02}
    assert limits("onnx.fp32") == {"top1_agreement": 0.7, "p50_ms": 9.0, "sqnr_db": 60.0}
    assert limits("tflite.int8")["top1_agreement"] == 0.6
    assert limits("tflite.fp16")["top1_agreement"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defualt]\n", "unknown section.*did you mean 'default'"),
        ("[default]\ntop1_agreemnt = 0.9\n", "unknown limit.*did you mean 'top1_agreement'"),
        ("[precision.int9]\n", "unknown precision 'int9'.*did you mean 'int8'"),
        ("[target.onx]\n", "unknown target 'onx'.*did you mean 'onnx'"),
        ('[variant."onnx_int8"]\n', "unknown target"),
        ('[variant."onnx.int9"]\n', "unknown precision"),
        ('[default]\ndelta = "small"\n', "must be a number"),
        ("[default]\ndelta = true\n", "must be a number"),
        ("[default]\ndelta = nan\n", "must be a number"),
        ("[default\n", "not TOML"),
        ("default = 3\n", "expected a section"),
        ("precision = 3\n", "not a section"),
        ("[precision]\nint8 = 3\n", "expected a section"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}") as caught:
        read_gate(gate_file(tmp_path, text))
    assert "gate.toml" in caught.value.what
    assert caught.value.fix


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the gate"):
        read_gate(tmp_path / "none.toml")
