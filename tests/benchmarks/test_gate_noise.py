from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_noise import CROWDED, Slower, acceptable, keep_busy, verdict_of

from edgetl.tasks.classification.results import Accuracy
from edgetl.verify.report import Check, Data, Report, Verdict
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import FakeSession

FAILED = Check("onnx.int8", "p50_ratio", 1.0, 2.0, False, "<=")


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (FAILED, "fail"),
        (replace(FAILED, passed=True), "pass"),
        (replace(FAILED, passed=True, undecided=True), "undecided"),
        (replace(FAILED, variant="onnx.fp32"), "not measured"),
        (replace(FAILED, what="bytes"), "not measured"),
    ],
)
def test_verdicts(check: Check, verdict: str) -> None:
    accuracy = Accuracy(1, 1.0, 1.0, None, (0.0, 1.0))
    report = Report("x", "now", {}, Data(1, "f"), accuracy, {}, (), Verdict(check.passed, (check,)))
    assert verdict_of(report, "onnx.int8") == verdict


@pytest.mark.parametrize(
    ("plain", "much", "little", "fine"),
    [
        ("pass", "fail", "pass", True),
        ("pass", "fail", "undecided", True),
        ("fail", "fail", "pass", False),
        ("undecided", "fail", "pass", False),
        ("pass", "undecided", "pass", False),
        ("pass", "fail", "fail", False),
        ("not measured", "fail", "pass", False),
    ],
)
def test_one_wrong_verdict_is_enough(plain: str, much: str, little: str, fine: bool) -> None:
    counts = {
        "as it is": Counter(["pass", plain]),
        "25 % slower": Counter(["fail", much]),
        "5 % slower": Counter(["pass", little]),
    }
    assert acceptable(counts) == fine


def test_a_slower_session_takes_longer_in_proportion() -> None:
    def compute(feeds: Any) -> Any:
        time.sleep(0.02)
        return {"y": np.zeros(1, np.float32)}

    spec = TensorSpec("x", "float32", (1,))
    with Slower(FakeSession((spec,), (TensorSpec("y", "float32", (1,)),), compute), 0.5) as session:
        start = time.perf_counter()
        assert session.run({"x": np.zeros(1, np.float32)})["y"].shape == (1,)
        assert 0.03 <= time.perf_counter() - start < 0.08
        assert session.inputs == (spec,)


@pytest.mark.parametrize(
    ("plain", "much", "fine"),
    [("undecided", "undecided", True), ("pass", "fail", True), ("fail", "fail", False), ("pass", "pass", False)],
)
def test_where_there_is_no_core_left_nothing_must_be_wrong(plain: str, much: str, fine: bool) -> None:
    counts = {"as it is": Counter([plain]), "25 % slower": Counter([much]), "5 % slower": Counter(["undecided"])}
    assert acceptable(counts, CROWDED) == fine


@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_machine_is_busy_as_long_as_asked(others: int) -> None:
    with keep_busy(others) as spinning:
        time.sleep(0.3)
        assert [process.poll() for process in spinning] == [None] * others
    assert all(process.returncode is not None for process in spinning)
