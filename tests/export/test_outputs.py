"""A network with several outputs, one of them a map: by name from capture to the files, and what breaks is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgetl_export import CalibrationSamples, Captured, ExportOptions, Source, capture, export
from edgetl_export.artifact import Artifact
from edgetl_export.int8 import run_artifact
from edgetl_export.ladder import Climb, same_labels
from edgetl_export.quantize.calibrate import Calibration, calibrate
from edgetl_export.quantize.distill import DistillOptions, distill
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.sensitivity import noise_by_node
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.source import by_name
from edgetl_export.targets import open_target
from edgetl_runtime import open_bundle, self_test
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.manifest import Label, Preprocess
from tests.export.conftest import static_for_this_cpu
from tests.zoo import NORMALIZE

pytestmark = pytest.mark.slow

SIZE, CLASSES = 32, 3
SPEC = Preprocess(0, (SIZE, SIZE), mode="stretch")
NAMES = ("boxes", "logits")


class Dense(nn.Module):
    """A detector and a segmenter in small: boxes (N, 320, 4) from two strides, logits (N, 16, 16, 3) by way of a
    bilinear upsampling and a skip."""

    def __init__(self) -> None:
        super().__init__()

        def conv(i: int, o: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6())

        self.low, self.deep = conv(3, 16, 2), nn.Sequential(conv(16, 24, 2), conv(24, 24))
        self.boxes = nn.ModuleList([nn.Conv2d(16, 4, 3, 1, 1), nn.Conv2d(24, 4, 3, 1, 1)])
        self.reduce, self.classify = conv(24, 16), nn.Conv2d(32, CLASSES, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        low = self.low(image)
        deep = self.deep(low)
        boxes = [
            layer(values).permute(0, 2, 3, 1).reshape(image.shape[0], -1, 4)
            for layer, values in zip(self.boxes, (low, deep), strict=True)
        ]
        up = functional.interpolate(self.reduce(deep), scale_factor=2.0, mode="bilinear", align_corners=False)
        logits = self.classify(torch.cat([up, low], 1))
        return {"logits": logits.permute(0, 2, 3, 1), "boxes": torch.cat(boxes, 1), "more": deep}


class InATuple(nn.Module):
    """The same outputs in the order of `NAMES`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.network(image)
        return tuple(outputs[name] for name in NAMES)


class MapAlone(nn.Module):
    """Its map, as a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)["logits"]
        return logits


def pictures(n: int, seed: int) -> npt.NDArray[np.uint8]:
    """(n, 32, 32, 3) uint8: coarse patches of colour under noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(30, 226, (n, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)


def truth(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The brightest colour of every second pixel, and what the boxes shall be: smooth functions of the colours."""
    colours = functional.avg_pool2d(images.permute(0, 3, 1, 2).float() / 255 - 0.5, 2)
    coarse = functional.avg_pool2d(colours, 2)
    parts = [
        torch.cat([2 * c, c.mean(1, keepdim=True)], 1).permute(0, 2, 3, 1).flatten(1, 2) for c in (colours, coarse)
    ]
    return colours.argmax(1), torch.cat(parts, 1)


@cache
def trained() -> nn.Module:
    """A `Dense` that has learned `truth` on `pictures`."""
    torch.manual_seed(3)
    network = Dense().train()
    images = torch.from_numpy(pictures(160, 0))
    mean, std = torch.tensor(NORMALIZE.mean), torch.tensor(NORMALIZE.std)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(100):
        batch = images[step % 10 * 16 : step % 10 * 16 + 16]
        labels, boxes = truth(batch)
        outputs = network(((batch.float() / 255 - mean) / std).permute(0, 3, 1, 2))
        loss = functional.cross_entropy(outputs["logits"].movedim(-1, 1), labels)
        loss = loss + 5 * functional.mse_loss(outputs["boxes"], boxes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained()


def source_of(network: nn.Module, names: tuple[str, ...] = NAMES) -> Source:
    labels = tuple(Label(name, name) for name in ("red", "green", "blue"))
    return Source("dense", network, labels, SPEC, NORMALIZE, "0" * 64, task="dense", outputs=names)


@dataclass(frozen=True)
class Written:
    """The network, quantised once, with images to judge on."""

    captured: Captured
    pixels: Captured
    calibration: Calibration
    quantized: Quantized
    images: npt.NDArray[np.uint8]

    @property
    def original(self) -> dict[str, npt.NDArray[Any]]:
        return self.captured.source.reference().outputs(self.images)

    def outputs(self, artifact: Artifact, target: str = "onnx") -> dict[str, npt.NDArray[Any]]:
        return run_artifact(self.captured, target, artifact, self.images)


@pytest.fixture(scope="module")
def written(network: nn.Module) -> Written:
    captured = capture(source_of(network))
    pixels = on_pixels(captured)
    calibration = calibrate(pixels, CalibrationSamples(list(pictures(48, 1)), SPEC))
    return Written(captured, pixels, calibration, static_for_this_cpu(pixels, calibration), pictures(24, 2))


def decibels(original: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    assert list(outputs) == list(original)
    return {name: sqnr_db(values, outputs[name]) for name, values in original.items()}


def test_the_network_has_learned(written: Written) -> None:
    labels, boxes = truth(torch.from_numpy(written.images))
    assert (written.original["logits"].argmax(-1) == labels.numpy()).mean() > 0.8
    assert sqnr_db(boxes.numpy(), written.original["boxes"]) > 10


@pytest.mark.parametrize("way", [lambda network: network, InATuple])
def test_outputs_are_found_by_name_however_they_are_given(network: nn.Module, way: Any) -> None:
    captured = capture(source_of(way(network)))
    assert [(spec.name, spec.shape, spec.layout) for spec in captured.outputs] == [
        ("boxes", (1, 320, 4), None),
        ("logits", (1, 16, 16, 3), "NHWC"),
    ]
    images = pictures(3, 9)
    with torch.inference_mode():
        mean, std = torch.tensor(NORMALIZE.mean), torch.tensor(NORMALIZE.std)
        expected = network(((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2))
        exported = by_name(captured.module(torch.from_numpy(images)), NAMES)
    original = captured.source.reference().outputs(images)
    for name in NAMES:
        assert sqnr_db(expected[name].numpy(), original[name]) > 90
        assert sqnr_db(expected[name].numpy(), exported[name].numpy()) > 90


def test_one_output_may_be_a_tensor_of_any_name(network: nn.Module) -> None:
    captured = capture(source_of(MapAlone(network), ("mask",)))
    assert [spec.name for spec in captured.outputs] == ["mask"]
    assert captured.output.shape == (1, 16, 16, 3)
    assert list(captured.source.reference().outputs(pictures(2, 0))) == ["mask"]


def test_outputs_that_are_not_there_are_said(network: nn.Module) -> None:
    for names, said in (
        (("boxes", "masks"), "a dict of logits, boxes, more, not boxes, masks"),
        (("logits", "scores", "boxes"), "not logits, scores, boxes"),
    ):
        with pytest.raises(ExportError, match=said):
            capture(source_of(network, names))
    with pytest.raises(ExportError, match="a tuple of 2"):
        capture(source_of(InATuple(network), ("boxes",)))
    with pytest.raises(ExportError, match="a tensor, not boxes, logits"):
        capture(source_of(MapAlone(network)))
    for names in ((), ("",), ("boxes", "boxes"), ("image", "boxes")):
        with pytest.raises(UsageError, match="cannot be the names"):
            source_of(network, names)
    with pytest.raises(UsageError, match="beside one output"):
        dataclasses.replace(source_of(network), features=("pooled",)).network()


def test_a_classifier_still_gives_one_row_of_logits(network: nn.Module) -> None:
    source = dataclasses.replace(source_of(MapAlone(network), ("logits",)), task="classification")
    with pytest.raises(ExportError, match=r"gives \[1, 16, 16, 3\] for one image; its labels need \[1, 3\]"):
        capture(source)


def test_the_fp32_file_gives_what_the_original_gives(written: Written) -> None:
    found = decibels(written.original, written.outputs(open_target("onnx").write(written.captured, "fp32")))
    assert min(found.values()) > 90, found


def test_the_int8_file_gives_what_the_original_gives_and_the_simulation_says(written: Written) -> None:
    outputs = written.outputs(open_target("onnx").quantize(written.quantized))
    found = decibels(written.original, outputs)
    assert min(found.values()) > 20, found
    simulated = Simulation(written.pixels, written.quantized.quantization).outputs(written.images)
    for name, value in decibels(written.original, simulated).items():
        assert found[name] == pytest.approx(value, abs=2), name
    assert same_labels(written.original, outputs).mean() > 0.95
    # Where it upsamples too: the two are nearer to each other than either is to the original.
    assert min(decibels(simulated, outputs).values()) > max(found.values()) + 6


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_grid_is_seen_in_the_output_behind_it(written: Written, name: str) -> None:
    """Of the layer that gives this output alone: the other one stays what it was."""
    layer = {"boxes": "boxes.1", "logits": "classify"}[name]
    node = next(
        found.output
        for found in Simulation(written.pixels, written.quantized.quantization).layers
        if found.name == layer
    )
    activations = written.quantized.quantization.activations
    broken = {**activations, node: Grid(activations[node].scale / 8, activations[node].zero_point)}
    quantization = dataclasses.replace(written.quantized.quantization, activations=broken)
    fine = decibels(written.original, written.outputs(open_target("onnx").quantize(written.quantized)))
    worse = decibels(
        written.original,
        written.outputs(
            open_target("onnx").quantize(dataclasses.replace(written.quantized, quantization=quantization))
        ),
    )
    assert worse[name] < fine[name] - 5
    (other,) = {*NAMES} - {name}
    assert worse[other] == pytest.approx(fine[other], abs=0.1)


def test_the_largest_of_an_output_is_never_clipped(written: Written) -> None:
    """Also where it is moved, or joined with others, behind the layer that computes it."""
    full = written.calibration.ranges["minmax"]
    for layer in Simulation(written.pixels, written.quantized.quantization).layers:
        if layer.name in ("boxes.0", "boxes.1", "classify"):
            for method in ("mse", "percentile"):
                assert written.calibration.ranges[method][layer.output] == full[layer.output], layer.name


class Shapes(nn.Module):
    """A map at the size of the image, which is asked for in one of the ways that there are."""

    def __init__(self, ask: Callable[[torch.Tensor], tuple[int, int]]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last, self.ask = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 2, 1), ask

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = self.last(torch.relu(self.first(image)))
        return functional.interpolate(values, self.ask(image), mode="bilinear").permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda image: image.shape[-2:],
        lambda image: image.shape[2:],
        lambda image: (image.shape[2], image.shape[3]),
        lambda image: image.size()[2:],
        lambda image: (image.size(2), image.size(dim=-1)),
    ],
)
def test_the_shape_of_the_image_is_without_the_border_that_pixels_get(ask: Any) -> None:
    captured = capture(source_of(Shapes(ask), ("logits",)))
    pixels = on_pixels(captured)
    assert pixels.takes_pixels
    images = torch.from_numpy(pictures(2, 6))
    assert pixels.batched(images).shape == (2, SIZE, SIZE, 2)
    assert sqnr_db(captured.module(images).detach().numpy(), pixels.module(images).detach().numpy()) > 45


@pytest.mark.parametrize(("mode", "node"), [("bilinear", "upsample_bilinear2d"), ("nearest", "upsample_nearest2d")])
def test_what_is_upsampled_is_rounded_as_integer_kernels_do(network: nn.Module, mode: str, node: str) -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            low = self.network.low(image)  # type: ignore[operator]
            reduced = self.network.reduce(self.network.deep(low))  # type: ignore[operator]
            up = functional.interpolate(reduced, scale_factor=2.0, mode=mode)
            return self.network.classify(torch.cat([up, low], 1)).permute(0, 2, 3, 1)  # type: ignore[operator]

    pixels = on_pixels(capture(source_of(Up(), ("logits",))))
    calibration = calibrate(pixels, CalibrationSamples(list(pictures(24, 1)), SPEC))
    quantized = static_for_this_cpu(pixels, calibration)
    simulation = Simulation(pixels, quantized.quantization)
    (up,) = (one for one in pixels.batched.graph.nodes if one.name == node)
    grids = quantized.quantization.activations
    assert node in simulation.rounded
    # Nearest neighbours are levels of the input; what is computed of them is rounded once, as what it is joined to.
    alike = up.all_input_nodes[0] if mode == "nearest" else next(iter(up.users))
    assert grids[node] == grids[alike.name]
    images = pictures(8, 2)
    outputs = run_artifact(pixels, "onnx", open_target("onnx").quantize(quantized), images)
    assert sqnr_db(simulation.outputs(images)["logits"], outputs["logits"]) > 40


class Labels(nn.Module):
    """The label of every pixel, as integers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)["logits"].argmax(-1).to(torch.uint8)  # type: ignore[no-any-return]


def test_outputs_in_integers_need_no_range(network: nn.Module) -> None:
    pixels = on_pixels(capture(source_of(Labels(network), ("mask",))))
    assert (pixels.output.dtype, pixels.output.shape) == ("uint8", (1, 16, 16))
    quantized = static_for_this_cpu(pixels, calibrate(pixels, CalibrationSamples(list(pictures(24, 1)), SPEC)))
    images = pictures(8, 2)
    original = pixels.source.reference().outputs(images)["mask"]
    found = run_artifact(pixels, "onnx", open_target("onnx").quantize(quantized), images)["mask"]
    assert found.dtype == np.uint8
    assert (found == original).mean() > 0.95


def test_noise_is_what_each_rounding_does_to_all_outputs(written: Written) -> None:
    """Estimated by gradients, against each rounding done alone: for a map the sum was over rows once."""
    simulation = Simulation(written.pixels, written.quantized.quantization)
    images = pictures(16, 4)
    noise = noise_by_node(written.quantized, images)
    batch = torch.from_numpy(images)
    exact, _ = simulation.run_float(batch)
    for node in simulation.rounded:

        def once(other: Any, value: torch.Tensor, node: str = node) -> torch.Tensor:
            scale, zero_point = simulation.grids[node]
            if other.name != node:
                return value
            return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 255)

        with torch.inference_mode():
            outputs, _ = simulation.run_float(batch, adjust=once)
        error = sum(
            float(((outputs[name] - values).flatten(1).square().sum(1) / values.flatten(1).square().sum(1)).mean())
            for name, values in exact.items()
        )
        assert 0.3 * error < noise[node] < 3 * error, node


def test_distillation_teaches_every_output(written: Written) -> None:
    poor = quantize_static(written.pixels, written.calibration, weight_levels=3)
    learned = distill(poor, pictures(64, 1), DistillOptions(epochs=12, mirror=False, rate=1e-3, device="cpu"))
    before, after = (
        decibels(written.original, Simulation(one.captured, one.quantization).outputs(written.images))
        for one in (poor, learned)
    )
    assert all(after[name] > before[name] + 1 for name in NAMES), (before, after)
    with pytest.raises(UsageError, match="say nothing of boxes, logits"):
        distill(poor, pictures(4, 1), labels=np.zeros(4, np.int64))


def test_places_of_a_map_agree_one_by_one(written: Written) -> None:
    original = written.original
    changed = original["logits"].copy()
    changed[0, :4] = np.roll(changed[0, :4], 1, -1)
    assert same_labels(original, {**original, "logits": changed}).tolist()[:2] == [0.75, 1.0]
    with pytest.raises(UsageError, match="no labels in boxes"):
        same_labels({"boxes": original["boxes"]}, original)
    assert Climb.__dataclass_fields__["agreement"].default is same_labels


def test_a_bundle_says_its_outputs_and_tests_itself(network: nn.Module, tmp_path: Path) -> None:
    images = list(pictures(20, 5))
    exported = export(
        source_of(network),
        CalibrationSamples(images, SPEC),
        images[:4],
        tmp_path,
        ExportOptions(("onnx",), ("fp32", "int8")),
    )
    assert not exported.failed
    bundle = open_bundle(tmp_path)
    assert [spec.name for spec in bundle.manifest.outputs] == list(NAMES)
    assert bundle.manifest.preprocess.mode == "stretch"
    golden = bundle.golden()
    assert golden is not None
    assert {name: values.shape for name, values in golden.outputs.items()} == {
        "boxes": (4, 320, 4),
        "logits": (4, 16, 16, 3),
    }
    tested = self_test(bundle)
    assert tested.passed, tested
    assert {test.id: test.sqnr_db is not None and test.sqnr_db > 20 for test in tested.variants} == {
        "onnx.fp32": True,
        "onnx.int8": True,
    }
