"""Networks whose signal fades, dies or cancels out: their int8 files can be run all the same, and export runs each."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from edgetl_export import ExportOptions, Source, capture, export
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.layers import SUMS, layers, with_activation
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.static import quantize_static
from edgetl_export.quantize.tie_free import LARGEST_RATIO
from edgetl_export.targets import TARGETS, tflite_file
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import Label
from tests.conftest import killing

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.zoo import Trained


class Fading(nn.Module):
    """Every block gives about `factor` of what comes in."""

    def __init__(self, factor: float, blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 1, bias=False) for _ in range(2 * blocks))
        self.head = nn.Linear(8, 4)
        for block in self.blocks:
            with torch.no_grad():
                block.weight.mul_(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = first(x)
            x = x + second(nn.functional.hardswish(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Cancelling(nn.Module):
    """A sum of a tensor and its negative, but for a billionth part, in front of a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.copy = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 1, bias=False)
        self.behind, self.head = nn.Conv2d(8, 8, 3, bias=False), nn.Linear(8, 4)
        with torch.no_grad():
            self.copy.weight.copy_(-torch.eye(8)[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = nn.functional.hardswish(self.behind(x + self.copy(x)))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class DeadBeside(nn.Module):
    """A branch that is always zero is added to one of a hundred millionth."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.dead = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(3, 8, 3, 2)
        self.behind, self.head = nn.Conv2d(8, 8, 3, bias=False), nn.Linear(8, 4)
        with torch.no_grad():
            self.alive.weight.mul_(1e-8)
            self.alive.bias.mul_(1e-8)  # type: ignore[union-attr]
            self.dead.bias.fill_(-1000.0)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.alive(x) + torch.relu(self.dead(x))
        logits: torch.Tensor = self.head(nn.functional.hardswish(self.behind(x)).mean((2, 3)))
        return logits


def rising_and_falling() -> nn.Module:
    """A gain of a million, then one of a trillionth."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        network[0].weight.mul_(1e6)
        network[2].weight.mul_(1e-12)
    return nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "untrained": lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    "fading by 1e-1": lambda: Fading(1e-1),
    "fading by 1e-3": lambda: Fading(1e-3),
    "fading by 1e-6": lambda: Fading(1e-6),
    "cancelling": Cancelling,
    "dead beside": DeadBeside,
    "rising and falling": rising_and_falling,
}


def source_of(name: str, trained: Trained) -> Source:
    torch.manual_seed(0)
    return dataclasses.replace(trained.source, module=NETWORKS[name]().eval())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_that_comes_in_is_many_steps_of_what_comes_out(name: str, trained: Trained) -> None:
    pixels = on_pixels(capture(source_of(name, trained)))
    quantization = quantize_static(pixels, calibrate(pixels, trained.samples)).quantization
    grids, graph = quantization.activations, pixels.batched.graph
    for layer in layers(graph):
        step = grids[layer.input].scale * max(quantization.weights[layer.weight])
        assert step <= grids[layer.output].scale * LARGEST_RATIO * 1.02, layer.name
    for node in graph.nodes:
        if node.target in SUMS and with_activation(node).name in grids:
            most = max(grids[source.name].scale for source in node.all_input_nodes if source.name in grids)
            assert most <= grids[with_activation(node).name].scale * LARGEST_RATIO * 1.02, node.name
    assert all(grid.scale > 0 and 0 <= grid.zero_point <= 255 for grid in grids.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_target_can_be_run(name: str, trained: Trained, tmp_path: Path) -> None:
    """TFLite's kernels abort where the others run; of what fades in between it alone sees every degree."""
    between = name in ("fading by 1e-1", "fading by 1e-3", "rising and falling")
    targets = ("tflite",) if between else tuple(TARGETS)
    options = ExportOptions(targets, ("int8",))
    exported = export(source_of(name, trained), trained.samples, trained.calibration[:2], tmp_path, options)
    assert exported.failed == {}
    assert len(exported.manifest.variants) == len(targets)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> None:
    """TFLite's int8 files end the process that loads them."""
    quantize = tflite_file.TfliteTarget.quantize

    def damaged(*args: object, **options: object) -> object:
        artifact = quantize(*args, **options)  # type: ignore[arg-type]
        return dataclasses.replace(artifact, files={".tflite": killing(artifact.files[".tflite"])})

    monkeypatch.setattr(tflite_file.TfliteTarget, "quantize", damaged)


def test_a_file_that_ends_its_process_is_not_packed(trained: Trained, tmp_path: Path, killer: None) -> None:
    options = ExportOptions(("onnx", "tflite"), ("fp32", "int8"))
    exported = export(trained.source, trained.samples, trained.calibration[:2], tmp_path, options)
    assert list(exported.failed) == ["tflite.int8"]
    assert "SIGABRT" in exported.failed["tflite.int8"]
    bundle = open_bundle(tmp_path)
    bundle.check()
    assert [variant.id for variant in bundle.manifest.variants] == ["onnx.fp32", "onnx.int8", "tflite.fp32"]
    assert "tflite.int8" not in bundle.manifest.provenance["methods"]
    assert not (tmp_path / "tflite/model.int8.tflite").exists()
    kept = json.loads((tmp_path / "quantization.json").read_text())["quantizations"]
    assert [entry["variants"] for entry in kept] == [["onnx.int8"]]


def test_nothing_that_runs_is_an_error(trained: Trained, tmp_path: Path, killer: None) -> None:
    with pytest.raises(ExportError, match=r"no variant could be written - tflite\.int8: .*SIGABRT"):
        export(
            trained.source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("tflite",), ("int8",))
        )
    assert not (tmp_path / "tflite").exists()


def test_without_a_child_process_it_is_said(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    options = ExportOptions(("onnx",), ("fp32",))
    exported = export(trained.source, trained.samples, trained.calibration[:2], tmp_path, options)
    assert exported.failed == {}
    assert any("were not run before they were packed" in warning for warning in exported.warnings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["head.bias", "stem.1.running_var", "expand.0.weight"])
def test_weights_that_are_no_numbers_are_not_exported(
    trained: Trained, tmp_path: Path, name: str, value: float
) -> None:
    source = dataclasses.replace(trained.source, module=trained.source.network())
    dict([*source.module.named_parameters(), *source.module.named_buffers()])[name].view(-1)[0] = value
    with pytest.raises(ExportError, match=rf"{name} is not finite: 1 of its"):
        export(source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("onnx",), ("fp32",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_logits_are_not_exported(trained: Trained, tmp_path: Path, n: int) -> None:
    source = dataclasses.replace(trained.source, labels=(Label("a", "a"),) * n)
    with pytest.raises(ExportError, match=f"gives {n} logit") as caught:
        export(source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("onnx",), ("fp32",)))
    assert "torch.cat" in str(caught.value.fix)


def test_masks_may_be_infinite(trained: Trained, tmp_path: Path) -> None:
    source = dataclasses.replace(trained.source, module=trained.source.network())
    source.module.register_buffer("mask", torch.full((2, 2), -np.inf))
    exported = export(source, trained.samples, trained.calibration[:2], tmp_path, ExportOptions(("onnx",), ("fp32",)))
    assert exported.failed == {}
