"""Nine variants of a trained network: what they decide, what they carry, and that broken ones are told apart."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_export import Exported, ExportOptions, export
from edgetl_export.targets import TARGETS, onnx_file, tflite_file
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError, MissingDependency, UsageError
from edgetl_runtime.selftest import self_test

pytestmark = pytest.mark.slow

VARIANTS = [f"{target}.{precision}" for target in TARGETS for precision in ("fp32", "fp16", "int8")]
LEAST_SQNR = {"fp32": 80.0, "fp16": 40.0, "int8": 15.0}
LEAST_AGREEMENT = {"fp32": 1.0, "fp16": 0.99, "int8": 0.93}


def logits_of(path: Path, variant: str, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with open_bundle(path).session(variant, threads=1) as session:
        return np.concatenate([session.run({"image": tensor[None]})["logits"] for tensor in tensors])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_decides_like_the_original(variant: str, bundle, trained) -> None:
    folder, _ = bundle
    reference = trained.source.reference()(trained.tensors)
    logits = logits_of(folder, variant, trained.tensors)
    precision = variant.partition(".")[2]
    assert sqnr_db(reference, logits) >= LEAST_SQNR[precision]
    assert (logits.argmax(1) == reference.argmax(1)).mean() >= LEAST_AGREEMENT[precision]


@pytest.mark.parametrize("variant", VARIANTS)
def test_swapped_colours_would_be_seen(variant: str, bundle, trained) -> None:
    folder, _ = bundle
    reference = trained.source.reference()(trained.tensors)
    swapped = logits_of(folder, variant, trained.tensors[..., ::-1])
    precision = variant.partition(".")[2]
    assert sqnr_db(reference, swapped) < LEAST_SQNR[precision]
    assert (swapped.argmax(1) == reference.argmax(1)).mean() < LEAST_AGREEMENT[precision]


def test_the_three_int8_variants_share_their_calibration(bundle) -> None:
    _, exported = bundle
    found = {
        json.dumps(variant.quantization["calibration"])
        for variant in exported.manifest.variants
        if variant.precision == "int8" and variant.quantization is not None
    }
    assert len(found) == 1
    assert json.loads(found.pop())["n"] == 64


@pytest.mark.parametrize("target", list(TARGETS))
def test_sizes(target: str, bundle) -> None:
    _, exported = bundle
    size = {variant.id: variant.bytes for variant in exported.manifest.variants}
    assert size[f"{target}.fp16"] < size[f"{target}.fp32"]


def test_every_file_alone_knows_what_it_is(bundle) -> None:
    folder, exported = bundle
    for variant in exported.manifest.variants:
        manifest = open_bundle(folder / variant.files[0].path).manifest
        assert [found.id for found in manifest.variants] == [variant.id]
        assert manifest.labels == exported.manifest.labels
        assert manifest.preprocess == exported.manifest.preprocess


def test_hashes_golden_samples_and_self_test(bundle) -> None:
    folder, _ = bundle
    opened = open_bundle(folder)
    opened.check()
    golden = opened.golden()
    assert golden is not None
    assert golden.tensors.shape == (4, 32, 32, 3)
    result = self_test(opened)
    assert result.passed
    assert {test.id for test in result.variants} == set(VARIANTS)


def test_the_tflite_graph_is_nhwc_from_end_to_end(bundle) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder, _ = bundle
    interpreter = Interpreter(model_path=str(folder / "tflite/model.fp32.tflite"))
    kinds = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert "TRANSPOSE" not in kinds
    assert "CONV_2D" in kinds


def test_int8_layers_run_on_integers(bundle) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder, exported = bundle
    interpreter = Interpreter(model_path=str(folder / "tflite/model.int8.tflite"))
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    for operator in interpreter._get_ops_details():
        if operator["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            tensors = (*operator["inputs"][:2], operator["outputs"][0])
            assert all(details[tensor]["dtype"] is np.int8 for tensor in tensors)
    for variant in ("onnx.int8", "openvino.int8"):
        left = exported.manifest.variant(variant).quantization["float_operators"]
        assert not {"Conv", "Gemm", "Convolution", "GroupConvolution"} & set(left)


def test_one_failing_target_does_not_stop_the_others(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, captured: object, precision: str) -> None:
        raise RuntimeError(f"no kernel for {precision}")

    monkeypatch.setattr(tflite_file.TfliteTarget, "write", fail)
    options = ExportOptions(("tflite", "onnx"), ("fp32",))
    exported = export(trained.source, trained.samples, trained.calibration[:2], tmp_path, options)
    assert [variant.id for variant in exported.manifest.variants] == ["onnx.fp32"]
    assert "RuntimeError: no kernel for fp32" in exported.failed["tflite.fp32"]
    assert "no kernel" in (tmp_path / "export.log").read_text()


@pytest.mark.parametrize("failure", [KeyError("HOME"), RuntimeError("no home"), OSError("libopenvino.so")], ids=repr)
def test_a_library_that_cannot_be_imported_does_not_stop_the_others(
    failure: Exception, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's telemetry without a home, for one."""
    real = importlib.import_module

    def broken(name: str) -> object:
        if name == "edgetl_export.targets.openvino_file":
            raise failure
        return real(name)

    monkeypatch.delitem(sys.modules, "edgetl_export.targets.openvino_file", raising=False)
    monkeypatch.setattr("edgetl_runtime.engines.importlib.import_module", broken)
    options = ExportOptions(targets=("onnx", "openvino"), precisions=("fp32",))
    exported = export(trained.source, trained.samples, trained.calibration[:2], tmp_path, options)
    assert [variant.id for variant in exported.manifest.variants] == ["onnx.fp32"]
    assert "openvino is not usable here, because " in exported.failed["openvino.fp32"]
    assert type(failure).__name__ in exported.failed["openvino.fp32"]


def test_all_targets_failing_is_an_error(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, captured: object, precision: str) -> None:
        raise ExportError("cannot", fix="do not")

    monkeypatch.setattr(onnx_file.OnnxTarget, "write", fail)
    with pytest.raises(ExportError, match=r"onnx\.fp32: cannot"):
        export(trained.source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("onnx",), ("fp32",)))


def test_names_are_checked_first() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'onx'.*\n.*did you mean 'onnx'"):
        ExportOptions(("onx",))
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        ExportOptions(("onnx",), ("int4",))
    with pytest.raises(UsageError, match="twice"):
        ExportOptions(("onnx", "onnx"))


def test_a_missing_converter_is_one_line(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = dataclasses.replace(TARGETS["tflite"], libraries=("no_such_library",))
    monkeypatch.setattr("edgetl_export.targets.TARGETS", {**TARGETS, "tflite": line})
    with pytest.raises(MissingDependency, match=r'no_such_library.*pip install "edgetl\[export\]"'):
        export(trained.source, trained.samples, [], tmp_path, ExportOptions(("tflite",)))
    assert list(tmp_path.iterdir()) == []


def test_converters_are_quiet(trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(trained.source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("onnx",), ("fp32",)))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_provenance(bundle: tuple[Path, Exported]) -> None:
    _, exported = bundle
    provenance = exported.manifest.provenance
    assert set(provenance["converters"]) >= {"onnx", "litert_torch", "openvino", "ai_edge_quantizer"}
    assert provenance["checkpoint_sha256"] == "0" * 64
