"""Which variant is taken, and what is said when none can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime import BundleError, EngineError, MissingDependency, UsageError, choose_variant, open_bundle


def test_int8_first_then_the_order_of_the_engines(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    bundle = open_bundle(pristine_bundle)
    assert choose_variant(bundle).id == "onnx.int8"
    assert choose_variant(bundle, engine="openvino").id == "openvino.fp32"
    no_engines("onnxruntime")
    assert choose_variant(bundle).id == "tflite.fp32"
    no_engines("ai_edge_litert")
    assert choose_variant(bundle).id == "openvino.fp32"


def test_fp16_comes_before_fp32_and_after_int8(bundle_path: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(bundle_path, lambda raw: raw["variants"][2].update(precision="fp16"))
    edit_manifest(bundle_path, lambda raw: raw["variants"][3].update(precision="w8a16"))
    assert choose_variant(open_bundle(bundle_path)).id == "openvino.fp32"


def test_failed_variants_are_passed_over_unless_named(bundle_path: Path, fail_in_report: Callable[..., None]) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    bundle = open_bundle(bundle_path)
    assert choose_variant(bundle).id == "onnx.fp32"
    assert choose_variant(bundle, variant="onnx.int8").id == "onnx.int8"
    fail_in_report(bundle_path, "onnx.int8", "onnx.fp32")
    with pytest.raises(EngineError, match=r"failed verification .*onnx\.int8: top1_agreement 0\.25 \(limit 0\.97\)"):
        choose_variant(bundle, engine="onnxruntime")


def test_nothing_installed_names_every_way_out(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    no_engines()
    with pytest.raises(EngineError) as caught:
        choose_variant(open_bundle(pristine_bundle))
    for extra in ("onnx", "tflite", "openvino"):
        assert f'pip install "edgetl[{extra}]"' in str(caught.value)


def test_one_missing_engine_is_its_own_error(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    no_engines("openvino")
    bundle = open_bundle(pristine_bundle)
    for arguments in ({"engine": "openvino"}, {"variant": "openvino.fp32"}):
        with pytest.raises(MissingDependency, match=r"edgetl\[openvino\]"):
            choose_variant(bundle, **arguments)


def test_names_that_do_not_fit(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    with pytest.raises(UsageError, match="did you mean 'litert'"):
        choose_variant(bundle, engine="litret")
    with pytest.raises(BundleError, match=r"no variant 'onnx\.fp16'"):
        choose_variant(bundle, variant="onnx.fp16")
    with pytest.raises(EngineError, match="runs in litert, not in onnxruntime"):
        choose_variant(bundle, variant="tflite.fp32", engine="onnxruntime")
    with pytest.raises(EngineError, match="no variant for engine 'openvino'"):
        choose_variant(open_bundle(pristine_bundle / "onnx/model.fp32.onnx"), engine="openvino")


def test_engine_of_a_newer_edgetl_is_no_crash(bundle_path: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(bundle_path, lambda raw: raw["variants"][3]["requires"].update(engine="hailort"))
    bundle = open_bundle(bundle_path)
    assert choose_variant(bundle).id == "onnx.fp32"
    with pytest.raises(EngineError, match="'hailort', which this edgetl does not know"):
        choose_variant(bundle, variant="onnx.int8")
