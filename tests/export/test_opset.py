"""``opset``: ONNX files in older operators run and agree; what needs newer ones is refused before calibration."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgetl_export import ExportOptions, export
from edgetl_export.targets import check_opset
from edgetl_export.targets.onnx_file import OnnxTarget
from edgetl_export.targets.requirements import requires
from edgetl_runtime import load, open_bundle, preprocess, self_test
from edgetl_runtime.errors import UsageError
from tests.zoo import LABELS, Attentive, Trained


@pytest.mark.slow
@pytest.mark.parametrize(("opset", "ir"), [(13, 7), (15, 8), (17, 8)])
def test_older_operators_run_and_agree(opset: int, ir: int, trained: Trained, tmp_path: Path) -> None:
    options = ExportOptions(("onnx",), ("fp32", "int8", "w8"), opset=opset)
    exported = export(trained.source, trained.samples, trained.calibration[:4], tmp_path, options)
    assert not exported.failed
    bundle = open_bundle(tmp_path)
    assert bundle.manifest.provenance["opset"] == opset
    for variant in bundle.manifest.variants:
        model = onnx.load(tmp_path / variant.files[0].path)
        assert [entry.version for entry in model.opset_import] == [opset]
        assert model.ir_version == ir
        onnx.checker.check_model(model, full_check=True)
        assert variant.requires == requires("onnx", variant.precision, opset=opset)
    assert self_test(bundle).passed
    tensor = preprocess(trained.calibration[0], trained.source.preprocess)
    answers = trained.source.reference()(tensor[None])
    with load(tmp_path, variant="onnx.fp32") as classifier:
        np.testing.assert_allclose(classifier.logits(tensor), answers[0], atol=1e-3)


@pytest.mark.slow
def test_what_the_network_needs_is_named_before_the_calibration(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attentive = replace(trained.source, module=Attentive(len(LABELS)))
    monkeypatch.setattr(sys.modules["edgetl_export.export"], "Quantizer", None)  # whoever calibrates fails
    with pytest.raises(UsageError, match=r"opset 16 is too old .* LayerNormalization \(opset 17\)") as raised:
        export(attentive, trained.samples, (), tmp_path, ExportOptions(("onnx",), ("int8",), opset=16))
    assert "--opset 17 or more" in str(raised.value)


@pytest.mark.parametrize(
    ("opset", "targets", "precisions", "said"),
    [
        (9, ("onnx",), ("fp32",), "opset 9 is not written"),
        (21, ("onnx",), ("fp32",), "opset 21 is not written"),
        (0, ("onnx",), ("fp32",), "opset 0 is not written"),
        (12, ("onnx",), ("fp32", "int8"), "opset 12 is not written"),
        (17, ("tflite", "openvino"), ("fp32",), "for ONNX files, and none"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    opset: int, targets: tuple[str, ...], precisions: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        ExportOptions(targets, precisions, opset=opset)


def test_without_it_files_are_what_they_were(trained: Trained) -> None:
    check_opset(None, ("tflite",))
    assert OnnxTarget()._opset is None
    assert requires("onnx", "int8") == requires("onnx", "int8", opset=20)
    assert requires("onnx", "int8", opset=17).min_version == "1.15.0"
    assert requires("onnx", "int8", opset=18).min_version == "1.15.1"
    assert requires("onnx", "fp16", opset=13).min_version == "1.15.1"
    assert requires("onnx", "int8", opset=19) == requires("onnx", "int8")
    assert requires("onnx", "dynamic", opset=17) == requires("onnx", "dynamic")
