from __future__ import annotations

from dataclasses import replace

from edgetl.reports.terminal import render_terminal
from edgetl.verify.report import Report, Verdict


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


def test_everything_that_is_known_is_said(full_report: Report) -> None:
    lines = render_terminal(full_report).splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "CAUSE tflite.int8: colours in the order BGR" in text
    assert "Fix: feed RGB" in text
    assert "OPEN onnx.fp32: 95th percentile latency in ms: measured 4 times as long" in text
    assert "CLASS onnx.int8 damages Label <1> 85.0 -> 76.8 % of 122 (p 0.002)" in text
    assert "BASE tflite.int8: top-1 agreement with the original 0.98 -> 0.4 (worse; p 1e-50)" in text
    assert "onnxruntime 1.30.0 -> 1.31.0 (changed; another version)" in text
    assert "onnx.int8: size in bytes 2500000 -> 2400000 (better; exact)" in text
    assert "within noise: 1 other differences since accepted.json of 2025-12-24" in text
    assert "top-1 accuracy 0.877" not in text
    assert "NOISE the load of other processes rose from 0.1 to 1.3 cores" in text
    assert "PHOTO warning: 8 images of val are in train too" in text


def test_an_undecided_variant_is_not_shown_as_passed(full_report: Report) -> None:
    rows = {line.split()[0]: line.split() for line in render_terminal(full_report).splitlines() if line}
    assert rows["onnx.fp32"][-1] == "open"
    assert rows["onnx.fp16"][-1] == "pass"
    only = tuple(check for check in full_report.verdict.checks if check.passed)
    text = render_terminal(replace(full_report, verdict=Verdict(True, only)))
    assert text.splitlines()[-1] == f"PASSED: all 9 variants hold the gate's {len(only)} limits, 1 of them undecided"


def test_a_baseline_without_changes_is_said(full_report: Report) -> None:
    assert full_report.baseline is not None
    same = replace(full_report, baseline=replace(full_report.baseline, changes=()))
    assert "BASE  nothing changed beyond noise since accepted.json of 2025-12-24" in render_terminal(same)
