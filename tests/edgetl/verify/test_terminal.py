from __future__ import annotations

from dataclasses import replace

from edgetl.verify.report import Report, Verdict
from edgetl.verify.terminal import render_terminal


def test_it_fits_and_ends_with_the_verdict(report: Report) -> None:
    lines = render_terminal(report).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "FAILED: 2 of 9 variants: openvino.int8, tflite.int8"


def test_every_variant_has_a_row_with_its_numbers(report: Report) -> None:
    rows = {line.split()[0]: line.split() for line in render_terminal(report).splitlines() if "." in line[:20]}
    assert rows["onnx.fp32"][1:] == ["100.0", "equal", "86.9", "+0.0", "8.00", "9.00", "1.00x", "9.00", "pass"]
    assert rows["onnx.int8"][1:] == ["98.4", "22.0", "86.4", "-0.5", "3.00", "3.50", "2.67x", "2.40", "pass"]
    assert rows["tflite.int8"][-1] == "FAIL"


def test_failures_are_said_in_words(report: Report) -> None:
    text = render_terminal(report)
    assert "tflite.int8: top-1 agreement with the original is 0.4, the gate asks for at least 0.95" in text
    assert "openvino.int8: not exported: unsupported operator" in " ".join(text.split())


def test_a_pass(report: Report) -> None:
    passed = replace(report, verdict=Verdict(True, tuple(c for c in report.verdict.checks if c.passed)))
    text = render_terminal(passed)
    assert text.splitlines()[-1].startswith("PASSED")
    assert "FAIL" not in text


def test_agreement_is_not_rounded_up_to_all(report: Report) -> None:
    parity = report.variants[0].parity
    assert parity is not None
    nearly = replace(report.variants[0], parity=replace(parity, top1_agreement=0.9999))
    text = render_terminal(replace(report, variants=(nearly,)))
    assert " 99.9 " in text
