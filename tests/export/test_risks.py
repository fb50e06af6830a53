"""What a bundle says of saturation, and of how its integer variants were made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgetl_export import Exported, ExportOptions, export
from edgetl_export.int8 import Int8Options
from edgetl_export.quantize.saturation import LayerRisk, saturation_risk
from edgetl_export.quantize.static import quantize_static
from edgetl_export.risks import Risks, summary


def test_the_summary_counts_layers_at_risk() -> None:
    risks = [LayerRisk("a", 40000, 0.1, 0.5), LayerRisk("b", 32000, 0.0, 0.0)]
    assert summary(risks) == {"layers_at_risk": 1, "layers": 2, "worst": 40000}
    assert summary([]) == {"layers_at_risk": 0, "layers": 0, "worst": 0}


def test_static_int8_has_its_layers_and_tflite_none(bundle: tuple[Path, Exported], int8) -> None:
    folder, exported = bundle
    static = quantize_static(int8.pixels, int8.calibration)
    expected = summary(saturation_risk(static))
    assert expected["layers_at_risk"] > 0
    for variant in exported.manifest.variants:
        found = (variant.quantization or {}).get("saturation")
        chosen = ExportOptions().int8_safe if variant.quantization else None
        assert (variant.quantization or {}).get("int8_safe") == chosen, variant.id
        if variant.precision != "int8" or variant.target == "tflite":
            assert found is None, variant.id
        else:
            assert found is not None, variant.id
            assert found["layers"] == expected["layers"]
            assert found["layers_at_risk"] > 0
    (kept,) = json.loads((folder / "quantization.json").read_text())["quantizations"]
    assert sorted(kept["saturation"]) == ["onnx.int8", "openvino.int8"]
    layers = kept["saturation"]["onnx.int8"]
    assert [layer["layer"] for layer in layers] == [risk.layer for risk in saturation_risk(static)]


@pytest.mark.slow
def test_safe_int8_is_at_no_risk_and_rungs_are_looked_at_too(trained, tmp_path: Path) -> None:
    options = ExportOptions(targets=("onnx",), precisions=("int8",), int8=Int8Options(safe=True, max_drop=0.4))
    exported = export(trained.source, trained.samples, trained.calibration[:4], tmp_path, options)
    (variant,) = exported.manifest.variants
    assert variant.quantization is not None
    assert variant.quantization["int8_safe"] is True
    assert variant.quantization["saturation"]["layers_at_risk"] == 0
    assert variant.quantization["saturation"]["layers"] > 5
    assert variant.quantization["saturation"]["worst"] <= np.iinfo(np.int16).max
    assert exported.manifest.provenance["methods"] == {"onnx.int8": "static"}
    assert exported.manifest.provenance["ladder"][0]["variant"] == "onnx.int8"


def test_other_parameters_are_not_taken_for_those_of_a_file(int8) -> None:
    risks = Risks()
    risks.remember("onnx", int8.quantized)
    same, other = int8.quantized.quantization, int8.quantized.on_rung("other").quantization
    assert list(risks.of({"onnx.int8": same, "openvino.int8": same, "onnx.w8a16": same})) == ["onnx.int8"]
    assert risks.of({"onnx.int8": other}) == {}
