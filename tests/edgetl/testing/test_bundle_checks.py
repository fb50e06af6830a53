"""What the plugin's tests say, without pytest in between: outcomes from a report, and parity of two sessions."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.testing.bundle_checks as pytest_checks
from edgetl.tasks.classification.results import Accuracy
from edgetl.testing.bundle_checks import WORKS, BundleChecks, GateError, assert_parity
from edgetl.verify.bundle import Outcome as Judged
from edgetl.verify.report import Check, Data, Finding, Report, VariantReport, Verdict
from edgetl_runtime.errors import BundleError, UsageError
from edgetl_runtime.manifest import Preprocess, TensorSpec
from edgetl_runtime.session import FakeSession, Tensors

IMAGE, LOGITS = TensorSpec("image", "uint8", (1, 4, 4, 3), "NHWC"), TensorSpec("logits", "float32", (1, 3))


def session(answer: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]) -> FakeSession:
    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        return {"logits": answer(feeds["image"])}

    return FakeSession((IMAGE,), (LOGITS,), run)


def means(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The mean of every colour."""
    return image.mean(axis=(1, 2)).astype(np.float32)


def images(n: int) -> list[npt.NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8))


def test_sessions_that_agree() -> None:
    found = assert_parity(session(means), session(lambda image: means(image) + 0.01), images(9), sqnr_db=40)
    assert (found.n, found.top1_agreement) == (9, 1.0)


def test_each_limit_fails_by_itself() -> None:
    samples = images(9)
    doubled = session(lambda image: 2 * means(image))
    assert_parity(session(means), doubled, samples)
    with pytest.raises(GateError, match=r"SQNR of the logits is -?0\.0 dB, at least 10 dB asked for"):
        assert_parity(session(means), doubled, samples, sqnr_db=10)
    rolled = session(lambda image: np.roll(means(image), 1, axis=1))
    with pytest.raises(GateError, match=r"0 of 9 decisions are equal, at least 50\.0% asked for"):
        assert_parity(session(means), rolled, samples, top1_agreement=0.5)
    silent = session(lambda image: np.full((1, 3), np.nan, np.float32))
    with pytest.raises(AssertionError, match="0 of 9"):
        assert_parity(session(means), silent, samples)


def test_what_the_samples_may_be(tmp_path: Path) -> None:
    a, b = session(means), session(means)
    batch = images(2)[0][None]
    assert assert_parity(a, b, [images(1)[0], batch]).n == 2
    large = np.zeros((40, 60, 3), np.uint8)
    assert assert_parity(a, b, [large], spec=Preprocess(resize=4, crop=(4, 4))).n == 1
    with pytest.raises(UsageError, match=r"take \[1, 4, 4, 3\], this sample is an array \[40, 60, 3\]"):
        assert_parity(a, b, [large])
    with pytest.raises(UsageError, match="without samples"):
        assert_parity(a, b, [])
    with pytest.raises(UsageError, match="without a limit"):
        assert_parity(a, b, images(1), top1_agreement=None)


@pytest.fixture
def checks(pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleChecks:
    """Of a bundle that has a checkpoint; what its verification finds is made up."""
    pytest.importorskip("torch")
    bundle = Path(shutil.copytree(pristine_bundle, tmp_path / "colours.edgetl"))
    (bundle / "reference").mkdir()
    (bundle / "reference" / "checkpoint.json").write_text("{}")
    made = [
        Check("onnx.fp32", "top1_agreement", 0.995, 0.9, False, ">=", p_value=0.001),
        Check("onnx.fp32", "sqnr_db", 60.0, 59.0, True, ">=", undecided=True, note="undecided after 20 rounds"),
        Check("tflite.fp32", WORKS, None, None, False, note="it does not load"),
        Check("onnx.int8", "top1_agreement", 0.95, 1.0, True, ">="),
        Check("onnx.int8", "labels", None, None, False, note="labels are shuffled"),
    ]
    report = Report(
        bundle="colours.edgetl",
        created="2026-01-02T03:04:05+00:00",
        machine={},
        data=Data(9, "f"),
        reference=Accuracy(9, 1.0, 1.0, None, (0.7, 1.0)),
        seconds={},
        variants=(
            VariantReport("onnx.fp32", "onnx", "fp32", findings=(Finding("BGR", "swapped they agree", "feed RGB"),)),
            VariantReport("tflite.fp32", "tflite", "fp32"),
            VariantReport("onnx.int8", "onnx", "int8"),
        ),
        verdict=Verdict(False, tuple(made)),
    )
    monkeypatch.setattr(pytest_checks, "verify_bundle", lambda *_: Judged(bundle, report))
    return BundleChecks(bundle, tmp_path, None)


def test_checks_are_known_before_anything_is_measured(checks: BundleChecks) -> None:
    assert checks.label == ""
    assert "against the bundle's checkpoint" in checks.description
    assert checks.names()["onnx.fp32"] == [WORKS, "top1_agreement", "sqnr_db"]
    assert checks.names()["onnx.int8"] == [WORKS, "top1_agreement", "delta", "sqnr_db"]


def test_outcomes(checks: BundleChecks) -> None:
    assert checks.outcome("onnx.fp32", WORKS).kind == "passed"
    failed = checks.outcome("onnx.fp32", "top1_agreement")
    assert failed.kind == "failed"
    assert "is 0.9, the gate asks for at least 0.995" in failed.why
    assert "p value 0.001" in failed.why
    assert "onnx.fp32: BGR: swapped they agree. Fix: feed RGB" in failed.why
    undecided = checks.outcome("onnx.fp32", "sqnr_db")
    assert undecided.kind == "skipped"
    assert undecided.why.startswith("undecided: onnx.fp32: SQNR in dB is 59")
    assert checks.outcome("onnx.int8", "top1_agreement").kind == "passed"


def test_what_no_limit_is_about_fails_the_first_check(checks: BundleChecks) -> None:
    assert checks.outcome("tflite.fp32", WORKS).why == "tflite.fp32: it does not load"
    assert (
        checks.outcome("tflite.fp32", "sqnr_db").why == "tflite.fp32: sqnr_db not measured: the variant does not work"
    )
    assert checks.outcome("onnx.int8", WORKS).why == "onnx.int8: labels are shuffled"


@dataclasses.dataclass
class Missing:
    """An obstacle."""

    error: BundleError


def test_what_has_no_engine_here_is_skipped_with_the_reason(
    pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(
        pytest_checks,
        "obstacle",
        lambda variant: None if variant.target == "onnx" else Missing(BundleError("no engine", fix="pip install it")),
    )
    checks = BundleChecks(pristine_bundle, None, None)
    assert checks.label == "golden"
    assert checks.outcome("tflite.fp32", WORKS) == pytest_checks.Outcome(
        "skipped", "cannot run here: no engine\n  fix: pip install it"
    )
    assert checks.outcome("onnx.fp32", "sqnr_db").kind == "passed"
    assert checks.outcome("onnx.int8", "delta").why.startswith("golden samples have no labels")


def test_a_bundle_that_nothing_here_can_run_is_no_pass(pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest_checks, "obstacle", lambda variant: Missing(BundleError(f"no engine for {variant.id}")))
    with pytest.raises(BundleError, match=r"no engine for onnx\.fp32"):
        BundleChecks(pristine_bundle, None, None)
