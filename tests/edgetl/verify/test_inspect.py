"""`edgetl inspect --layers` on a bundle with a fault in its seventh layer, in each format and precision."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import edgetl.verify.inspect as inspection
from edgetl.verify.inspect import LayerInspection, inspect_layers
from edgetl.verify.layers.layer_error import find_parting
from edgetl.verify.report import LayerError
from edgetl_export import CalibrationSamples, ExportOptions, Source, export
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from tests.conftest import put_killer
from tests.edgetl.verify.planting import flipped, plant_in_layer

pytestmark = pytest.mark.slow

SIZE, LAYERS, PLACE = 24, 9, 6
VARIANTS = [f"{target}.{precision}" for target in ("onnx", "tflite", "openvino") for precision in ("fp32", "int8")]


class Chain(nn.Module):
    """Eight convolutions, plain and depthwise in turns, of equal size, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16 if place % 2 else 1), nn.ReLU6())
            for place in range(LAYERS - 2)
        )
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(module.weight)
                    nn.init.normal_(module.bias, 0.2, 0.1)  # type: ignore[arg-type] # they have biases

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def source() -> Source:
    torch.manual_seed(1)
    return Source(
        name="chain",
        module=Chain().eval(),
        labels=tuple(Label(name, name) for name in "abcd"),
        preprocess=Preprocess(resize=SIZE, crop=(SIZE, SIZE)),
        normalize=Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        checkpoint_sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def images() -> list[npt.NDArray[np.uint8]]:
    """24 smooth pictures, (24, 24, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3))
    return list(coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def exported(source: Source, images: list[npt.NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspection") / "chain.edgetl"
    folder.mkdir()
    samples = CalibrationSamples(images, source.preprocess)
    export(source, samples, images[:4], folder, ExportOptions(precisions=("fp32", "int8")))
    return folder


@pytest.fixture
def bundle(exported: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to plant faults in; its checkpoint is `source`, which no registered backbone builds."""
    shutil.copytree(exported, tmp_path / "chain.edgetl")
    monkeypatch.setattr(inspection, "_source", lambda bundle, opened: source)
    return tmp_path / "chain.edgetl"


def test_a_fault_in_the_seventh_layer_is_found_in_each_format(bundle: Path) -> None:
    for variant in VARIANTS:
        plant_in_layer(bundle, variant, PLACE, flipped)
    found = inspect_layers(bundle)
    assert [variant.id for variant in found.variants] == VARIANTS
    for variant in found.variants:
        assert variant.parts_at is not None, variant.id
        assert variant.parts_at.module == f"layers.{PLACE - 1}.0", variant.id
        assert [finding.cause for finding in variant.findings] == [f"layers.{PLACE - 1}.0 computes something else"]
        assert any(f"parts from the original at layers.{PLACE - 1}.0" in line for line in found.lines())
    assert found.seconds < 60


def test_a_dead_channel_is_named(bundle: Path) -> None:
    def zeroed(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        weights[5] = 0
        return weights

    for variant in ("onnx.fp32", "tflite.int8"):
        plant_in_layer(bundle, variant, PLACE, zeroed)
    found = inspect_layers(bundle, variants=("onnx.fp32", "tflite.int8"))
    for variant in found.variants:
        (layer,) = [layer for layer in variant.layers if layer.module == f"layers.{PLACE - 1}.0"]
        assert layer.dead_channels == (5,)


def test_a_sound_bundle_parts_nowhere(bundle: Path, images: list[npt.NDArray[np.uint8]]) -> None:
    found = inspect_layers(bundle, images=images[4:])
    assert found.n == 12
    for variant in found.variants:
        assert variant.parts_at is None, (variant.id, variant.parts_at)
        assert variant.findings == ()
        assert variant.agreement == 1.0
        assert len(variant.layers) >= LAYERS
    assert sum("no layer goes wrong" in line for line in found.lines()) == len(VARIANTS)
    assert json.loads(found.to_json())["variants"][0]["layers"][0]["weights"] == "float32"


def test_what_the_precision_costs_is_no_fault() -> None:
    def layers(*drops: float) -> list[LayerError]:
        return [LayerError(f"m{i}", f"n{i}", "t", 0.0, drop) for i, drop in enumerate(drops)]

    parted = find_parting(layers(13, 2, 11, 3), [layers(13, 2, 2, 3), layers(14, 3, 1, 8)])
    assert parted is not None
    assert parted.module == "m2"
    assert parted.drop_db == 11
    assert find_parting(layers(13, 2), [layers(12, 2)]) is None
    alone = find_parting(layers(13, 2))
    assert alone is not None
    assert alone.module == "m0"


class Unusual(nn.Module):
    """What no converter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 16, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x * self.scale)


def test_a_variant_that_was_not_exported_is_narrowed_down(
    bundle: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Chain().eval()
    network.layers[2] = nn.Sequential(nn.Conv2d(16, 16, 1), Unusual(), nn.ReLU())
    broken = dataclasses.replace(source, module=network)
    report = {"variants": [{"id": "onnx.fp16", "error": "not exported: ConversionError"}]}
    (bundle / "report.json").write_text(json.dumps(report))
    monkeypatch.setattr(inspection, "_source", lambda bundle, opened: broken)
    found = inspect_layers(bundle, variants=("onnx.fp16",))
    (missing,) = found.unconverted
    assert (missing.id, missing.path) == ("onnx.fp16", "layers.2.1")
    assert any("layers.2.1 fails alone" in line for line in found.lines())


def test_what_cannot_be_inspected_is_said(exported: Path, bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"no variant 'onnx\.int9'"):
        inspect_layers(bundle, variants=("onnx.int9",))
    with pytest.raises(UsageError, match="no images"):
        inspect_layers(bundle, images=[])
    assert isinstance(inspect_layers(bundle, variants=("onnx.fp32",)), LayerInspection)


def test_a_bundle_without_its_checkpoint_is_said(exported: Path) -> None:
    with pytest.raises(CheckpointError, match="does not keep the checkpoint"):
        inspect_layers(exported)


def test_a_file_that_ends_its_process_is_the_only_one_without_layers(bundle: Path) -> None:
    put_killer(bundle)
    manifest = bundle / "manifest.json"
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: value for key, value in raw.items() if key not in ("sealed", "seal")}))
    found = {variant.id: variant for variant in inspect_layers(bundle, variants=("onnx.fp32", "tflite.fp32")).variants}
    assert "SIGABRT" in str(found["tflite.fp32"].error)
    assert not found["tflite.fp32"].layers
    assert not found["tflite.fp32"].findings
    assert found["onnx.fp32"].error is None
    assert found["onnx.fp32"].layers


@pytest.mark.parametrize("id_", ["evil.int8", "onnx", "", "../../x.fp32", "onnx.fp99", "\x1b[2J.int8"])
def test_a_report_that_names_what_there_is_not(bundle: Path, id_: str) -> None:
    report = {"variants": [{"id": id_, "error": "not exported: ConversionError"}]}
    (bundle / "report.json").write_text(json.dumps(report))
    assert inspection._not_exported(open_bundle(bundle)) == {}
    (bundle / "report.json").write_text('{"variants":' + "[" * 100_000)
    assert inspection._not_exported(open_bundle(bundle)) == {}
