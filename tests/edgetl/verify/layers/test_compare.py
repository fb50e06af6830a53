"""Layers of exported variants, held against originals that differ from them in one layer."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from edgetl.data.dataset import Sample
from edgetl.reports.html import render_html
from edgetl.reports.markdown import render_markdown
from edgetl.reports.terminal import render_terminal
from edgetl.verify.layers.compare import layer_errors
from edgetl.verify.layers.layer_error import fall_db, find_suspects
from edgetl.verify.layers.probe import open_probe
from edgetl.verify.report import LayerError, Report
from edgetl.verify.verify import VerifyOptions, verify
from edgetl_export import CalibrationSamples, ExportOptions, Source, export
from edgetl_export.bundle_writer import write_manifest
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import EdgetlError, EngineError
from edgetl_runtime.manifest import FileEntry, Label, Normalize, Preprocess

pytestmark = pytest.mark.slow

SIZE = 32
VARIANTS = [f"{target}.{precision}" for target in ("onnx", "tflite", "openvino") for precision in ("fp32", "int8")]
LAYERS = ["stem.0", "expand.0", "depthwise.0", "squeeze.1", "squeeze.3", "project", "last.0", "head"]
QUICK = VerifyOptions(latency_seconds=0)


class Bottleneck(nn.Module):
    """Layers of equal size behind one another, a residual, squeeze-excite: what is easily mistaken for another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(16, 32, 1), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.ReLU6())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.SiLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid()
        )
        self.project = nn.Conv2d(32, 16, 1)
        self.last = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU6())
        self.head = nn.Linear(32, 4)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    # As wide as what comes in, so that no layer fades to nothing.
                    nn.init.kaiming_normal_(module.weight)
                    nn.init.normal_(module.bias, 0.2, 0.1)  # type: ignore[arg-type] # they have biases

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        x = x + self.project(y * self.squeeze(y))
        logits: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(self.last(x), 1).flatten(1))
        return logits


def flipped(weight: torch.Tensor) -> torch.Tensor:
    return weight * torch.where(torch.arange(len(weight)) % 2 == 0, -1.0, 1.0).reshape(-1, *[1] * (weight.ndim - 1))


def shuffled(weight: torch.Tensor) -> torch.Tensor:
    return 3 * weight.flatten()[torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))].view_as(
        weight
    )


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    """(24, 32, 32, 3) smooth pictures."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def source() -> Source:
    torch.manual_seed(0)
    return Source(
        name="tiny",
        module=Bottleneck().eval(),
        labels=tuple(Label(name, name) for name in "abcd"),
        preprocess=Preprocess(resize=SIZE, crop=(SIZE, SIZE)),
        normalize=Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        checkpoint_sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def exported(source: Source, images: npt.NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers") / "tiny.edgetl"
    folder.mkdir()
    samples = CalibrationSamples(list(images), source.preprocess)
    export(source, samples, list(images[:2]), folder, ExportOptions(precisions=("fp32", "int8")))
    return folder


def damaged(source: Source, layer: str, damage: Callable[[torch.Tensor], torch.Tensor]) -> Source:
    module = copy.deepcopy(source.module)
    weighted = module.get_submodule(layer)
    with torch.no_grad():
        weighted.weight = nn.Parameter(damage(weighted.weight))  # type: ignore[arg-type]
    return dataclasses.replace(source, module=module)


def found(result: tuple[LayerError, ...] | EdgetlError) -> tuple[LayerError, ...]:
    assert not isinstance(result, EdgetlError), result
    return result


def test_every_layer_of_every_variant_is_found(exported: Path, source: Source, images: npt.NDArray[np.uint8]) -> None:
    measured = layer_errors(open_bundle(exported), VARIANTS, source, images[:2])
    assert list(measured) == VARIANTS
    for variant, result in measured.items():
        layers = found(result)
        assert [name for name in dict.fromkeys(layer.module for layer in layers) if name in LAYERS] == LAYERS, variant
        assert {"squeeze.4", "expand.1"} <= {layer.module for layer in layers}, variant
        assert ("project", "add_1") in [(layer.module, layer.node) for layer in layers], variant
        assert min(layer.sqnr_db for layer in layers) > (90 if variant.endswith("fp32") else 18), variant
        assert variant.endswith("int8") or not find_suspects(layers)


@pytest.mark.parametrize("damage", [flipped, shuffled])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_that_differs_is_named_first(
    exported: Path,
    source: Source,
    images: npt.NDArray[np.uint8],
    layer: str,
    damage: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Whichever side the damage is on, variant and original part there."""
    measured = layer_errors(open_bundle(exported), VARIANTS, damaged(source, layer, damage), images[:2])
    for variant, result in measured.items():
        suspects = find_suspects(found(result))
        assert [suspect.module for suspect in suspects[:1]] == [layer], (variant, suspects)
        assert suspects[0].drop_db > 15


class Scaled(nn.Module):
    """ConvNeXt's block in small: what a matrix product gives is moved, and scaled by a constant for each channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU())
        self.inner, self.outer = nn.Linear(16, 32), nn.Linear(32, 16)
        self.scale = nn.Parameter(torch.linspace(-0.02, 0.5, 16)[:, None, None])
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.outer(nn.functional.gelu(self.inner(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.head((x + self.scale * y).mean((2, 3)))
        return logits


def test_scales_that_a_converter_folds_into_a_layer(
    source: Source, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """litert-torch multiplies the weights by them, the others keep a product: none of that is an error."""
    scaled = dataclasses.replace(source, module=Scaled().eval())
    samples = CalibrationSamples(list(images[:8]), source.preprocess)
    export(scaled, samples, list(images[:2]), tmp_path, ExportOptions(precisions=("fp32",)))
    variants = [f"{target}.fp32" for target in ("onnx", "tflite", "openvino")]
    layers = layer_errors(open_bundle(tmp_path), variants, scaled, images[:2])
    for variant in variants:
        rows = found(layers[variant])
        assert min(row.sqnr_db for row in rows) > 80, variant
        assert {"stem.0", "inner", "outer", "head"} <= {row.module for row in rows}, variant
    onnx_layers, tflite_layers, openvino_layers = (len(found(layers[variant])) for variant in variants)
    assert onnx_layers == openvino_layers == tflite_layers + 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_watched_is_what_runs(exported: Path, images: npt.NDArray[np.uint8], variant: str) -> None:
    """Looking inside changes nothing: the logits are those of the engine as it runs on the device."""
    bundle = open_bundle(exported)
    engine = bundle.manifest.variant(variant).requires.engine
    watched = open_probe(engine, bundle.model(variant), bundle.manifest.input, threads=1)
    seen = watched.run(images[:1])[-1]
    logits = bundle.session(variant, threads=1).run({"image": images[:1]})["logits"]
    step = float(np.abs(logits).max()) / 127
    assert np.allclose(seen, logits, atol=3 * step if variant == "tflite.int8" else 1e-5 * step)


def test_a_broken_file_is_diagnosed_in_the_report(
    exported: Path, source: Source, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    broken = _with_flipped_weight(exported, tmp_path / "broken.edgetl", "project.weight")
    labels = source.reference()(images).argmax(axis=1)
    samples = [Sample(image, int(label), str(i)) for i, (image, label) in enumerate(zip(images, labels, strict=True))]
    report = verify(broken, samples, source.reference(), QUICK, original=source)
    sound, wrong = report.variant("tflite.fp32"), report.variant("onnx.fp32")
    assert sound.layers == (), "logits that are equal leave nothing to look for"
    assert wrong.suspects[0].module == "project"
    assert len(wrong.layers) > len(LAYERS)
    assert Report.from_json(report.to_json(), where="test") == report
    assert json.loads(report.to_json())["variants"][0]["suspects"][0]["module"] == "project"
    assert "onnx.fp32 first goes wrong at project" in render_terminal(report)
    assert "onnx.fp32 first goes wrong at project" in render_markdown(report)
    assert '<td class="text">project</td>' in render_html(report)


def test_layers_are_measured_on_request_only(exported: Path, source: Source, images: npt.NDArray[np.uint8]) -> None:
    samples = [Sample(image, 0, str(i)) for i, image in enumerate(images[:4])]
    quiet = dataclasses.replace(QUICK, layers=False)
    for report in (
        verify(exported, samples, source.reference(), quiet, original=source, variants=["onnx.int8"]),
        verify(exported, samples, source.reference(), QUICK, variants=["onnx.int8"]),
    ):
        assert report.variants[0].layers == ()
        assert report.variants[0].layers_error is None


def test_a_variant_that_cannot_be_taken_apart_stops_no_other(
    exported: Path, source: Source, images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(exported)
    whole = bundle.model

    def model(variant_id: str, *, verify: bool = True) -> object:
        content = whole(variant_id, verify=verify)
        return dataclasses.replace(content, main=b"TFL3" * 9) if variant_id == "tflite.int8" else content

    monkeypatch.setattr(bundle, "model", model)
    measured = layer_errors(bundle, ["tflite.int8", "onnx.int8"], source, images[:1])
    assert isinstance(measured["tflite.int8"], EngineError)
    assert found(measured["onnx.int8"])


def test_a_fall_is_from_the_worst_input_and_ends_at_nothing() -> None:
    assert fall_db([30.0, 20.0], 15.0) == 5.0
    assert fall_db([20.0], 25.0) == 0.0
    assert fall_db([], 30.0) == fall_db([70.0], 30.0) == 10.0
    assert fall_db([3.0], -50.0) == 3.0


def test_suspects_are_the_first_large_falls() -> None:
    layers = [LayerError(str(i), str(i), "t", 0.0, drop) for i, drop in enumerate([4, 13, 2, 20, 9.9, 12, 15])]
    assert [layer.module for layer in find_suspects(layers)] == ["1", "3", "5"]
    assert find_suspects(layers[:1]) == ()
    assert find_suspects([]) == ()


def _with_flipped_weight(bundle: Path, out: Path, name: str) -> Path:
    """A copy of `bundle` whose onnx.fp32 has every second output channel of one weight negated; hashes are renewed."""
    out.mkdir()
    for entry in bundle.iterdir():
        if entry.name not in ("onnx", "manifest.json"):
            (out / entry.name).symlink_to(entry)
    manifest = open_bundle(bundle).manifest
    (out / "onnx").mkdir()
    for file in (bundle / "onnx").iterdir():
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if file.name == "model.fp32.onnx" and tensor.name.endswith(name):
                values = flipped(torch.tensor(onnx.numpy_helper.to_array(tensor))).numpy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, out / "onnx" / file.name)
    variants = []
    for variant in manifest.variants:
        contents = {entry.path: (out / entry.path).read_bytes() for entry in variant.files}
        entries = [FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in contents.items()]
        variants.append(dataclasses.replace(variant, files=tuple(entries)))
    write_manifest(out, dataclasses.replace(manifest, variants=tuple(variants)))
    return out
