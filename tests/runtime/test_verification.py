"""The report of a bundle, as the device reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl_runtime import BundleError, open_bundle
from edgetl_runtime.verification import FailedCheck, Verified, read_verified


def write(bundle: Path, *variants: dict[str, Any], checks: tuple[dict[str, Any], ...] = ()) -> None:
    report = {"schema": 1, "variants": variants, "verdict": {"passed": not checks, "checks": checks}}
    (bundle / "report.json").write_text(json.dumps(report))


def test_agreement_accuracy_and_failures_are_read(bundle_path: Path, zip_bundle: Callable[..., Path]) -> None:
    near = FailedCheck("onnx.int8", "delta", -0.02, -0.0200004)
    assert str(near) == "delta -0.0200004 (limit -0.02)"
    failed = {"variant": "onnx.int8", "what": "delta", "limit": -0.02, "value": -0.5, "passed": False}
    write(
        bundle_path,
        {"id": "onnx.fp32", "parity": {"n": 250, "top1_agreement": 1.0}, "accuracy": {"delta": 0.004}},
        {"id": "onnx.int8", "parity": {"n": 250, "top1_agreement": 0.5}, "accuracy": None},
        {"id": "tflite.fp32", "parity": None},
        checks=(failed,),
    )
    expected = {
        "onnx.fp32": Verified(250, 1.0, 0.004),
        "onnx.int8": Verified(250, 0.5, None, ("delta -0.5 (limit -0.02)",)),
        "tflite.fp32": Verified(),
    }
    assert read_verified(open_bundle(bundle_path)) == expected
    assert read_verified(open_bundle(zip_bundle(bundle_path))) == expected


def test_a_failure_counts_without_numbers(bundle_path: Path, fail_in_report: Callable[..., None]) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    assert read_verified(open_bundle(bundle_path))["onnx.int8"].failed


def test_costs_are_notes(bundle_path: Path, report_of_checks: Callable[..., None]) -> None:
    report_of_checks(bundle_path, ("onnx.fp32", "bytes", 5_000, 4_000), ("onnx.fp32", "top1", 0.5, 0.8))
    found = read_verified(open_bundle(bundle_path))["onnx.fp32"]
    assert found.failed == ("top1 0.5 (limit 0.8)",)
    assert found.notes == ("bytes 5000 (limit 4000)",)


def test_no_report_is_no_fidelity(pristine_bundle: Path) -> None:
    assert read_verified(open_bundle(pristine_bundle)) == {}
    assert read_verified(open_bundle(pristine_bundle / "onnx/model.fp32.onnx")) == {}


@pytest.mark.parametrize(
    "variant", [{"parity": {}}, {"id": "onnx.fp32", "parity": {"top1_agreement": "high"}}, {"id": "a", "parity": 1}]
)
def test_a_damaged_report_is_an_error(variant: dict[str, Any], bundle_path: Path) -> None:
    write(bundle_path, variant)
    with pytest.raises(BundleError, match=r"report\.json .* is damaged"):
        read_verified(open_bundle(bundle_path))
