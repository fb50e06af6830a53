"""What a network moves, joins and upsamples on its way to dense outputs: in integers, and alike in every target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgetl_export import CalibrationSamples, Captured, capture
from edgetl_export.artifact import Artifact
from edgetl_export.int8 import run_artifact
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.joined import shared_grids
from edgetl_export.quantize.layers import joining, tails
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.targets import TARGETS, Target, open_target, tflite_flatbuffer
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from tests.export.conftest import static_for_this_cpu
from tests.export.test_outputs import NAMES, SPEC, pictures, source_of, trained

pytestmark = pytest.mark.slow

ALIKE_DB = 38.0
"""Nearer than this to the simulation: a level here and there is another one, as where halves are rounded."""


@dataclass(frozen=True, eq=False)
class Dense:
    """The network of test_outputs.py as int8, in the simulation and, written once, in every target."""

    captured: Captured
    quantized: Quantized
    images: npt.NDArray[np.uint8]

    @cached_property
    def targets(self) -> dict[str, Target]:
        return {name: open_target(name) for name in TARGETS}

    @cached_property
    def _files(self) -> dict[str, Artifact]:
        return {}

    def file(self, target: str) -> Artifact:
        if target not in self._files:
            self._files[target] = self.targets[target].quantize(self.quantized)
        return self._files[target]

    def decibels(self, target: str, artifact: Artifact) -> dict[str, float]:
        """How near the outputs of an artifact are to those of the simulation."""
        outputs = run_artifact(self.captured, target, artifact, self.images)
        simulated = Simulation(self.quantized.captured, self.quantized.quantization).outputs(self.images)
        return {name: sqnr_db(simulated[name], outputs[name]) for name in NAMES}


def quantized(network: nn.Module, names: tuple[str, ...] = NAMES) -> Quantized:
    pixels = on_pixels(capture(source_of(network, names)))
    return static_for_this_cpu(pixels, calibrate(pixels, CalibrationSamples(list(pictures(32, 1)), SPEC)))


@pytest.fixture(scope="module")
def dense() -> Dense:
    return Dense(capture(source_of(trained())), quantized(trained()), pictures(12, 2))


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_the_simulations_numbers(dense: Dense, target: str) -> None:
    found = dense.decibels(target, dense.file(target))
    assert all(value > ALIKE_DB for value in found.values()), found


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("onnx", "boxes"),
        ("onnx", "logits"),
        ("tflite", "boxes"),
        ("tflite", "logits"),
        ("openvino", "logits"),  # it does not round boxes at all in a network that is more than sums of integers
    ],
)
def test_a_join_on_another_grid_is_found(dense: Dense, target: str, output: str) -> None:
    """What the target writes is compared with the simulation of what it was asked for."""
    graph = dense.quantized.captured.batched.graph
    sources, moving = tails(graph)[NAMES.index(output)]
    wrong = {node.name for node in (joining(graph) if output == "logits" else (*sources, *moving))}
    grids = {
        name: Grid(16 * grid.scale, grid.zero_point) if name in wrong else grid
        for name, grid in dense.quantized.quantization.activations.items()
    }
    broken = replace(dense.quantized, quantization=replace(dense.quantized.quantization, activations=grids))
    found = dense.decibels(target, dense.targets[target].quantize(broken))
    assert found[output] < ALIKE_DB - 5, found


def test_what_is_joined_shares_a_grid(dense: Dense) -> None:
    grids, graph = dense.quantized.quantization.activations, dense.quantized.captured.batched.graph
    (join,) = joining(graph)
    up, skip = (grids[node.name] for node in join.args[0])
    assert grids[join.name] in (up, skip)
    for sources, moving in tails(graph):
        assert len({grids[node.name] for node in (*sources, *moving)}) == 1
    # Boxes of two maps, moved and joined; logits, moved.
    assert [(len(sources), len(moving)) for sources, moving in tails(graph)] == [(2, 5), (1, 1)]


def test_onnx_leaves_nothing_in_float(dense: Dense, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    artifact = dense.file("onnx")
    onnxruntime.InferenceSession(artifact.files[".onnx"], options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    assert artifact.quantization is not None
    assert artifact.quantization["float_operators"] == {}
    kinds = [node.op_type for node in graph.node]
    # Each output is made float32 once, at its end; ONNX Runtime upsamples in float, between a pair of its own.
    floats = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    moving = [node for node in graph.node if node.op_type in ("Concat", "Reshape", "Transpose", "QLinearConcat")]
    assert not [node.name for node in moving if floats.intersection(node.input)]
    assert kinds.count("DequantizeLinear") == len(NAMES) + kinds.count("Resize")


def test_tflite_rounds_no_part_of_an_output_again(dense: Dense) -> None:
    model = tflite_flatbuffer.opened(dense.file("tflite").files[".tflite"])
    graph = model.subgraphs[0]
    makers = {int(index): operator for operator in graph.operators for index in operator.outputs}
    read = [
        [tflite_flatbuffer.kind(model, makers[int(index)]) for index in operator.inputs if int(index) in makers]
        for operator in graph.operators
        if tflite_flatbuffer.kind(model, operator) == "CONCATENATION"
    ]
    assert ["RESHAPE", "RESHAPE"] in read, read  # boxes
    assert not any("QUANTIZE" in kinds and "RESHAPE" in kinds for kinds in read), read


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_an_output_whose_layers_stay_in_float_is_not_rounded(dense: Dense, target: str) -> None:
    graph = dense.quantized.captured.batched.graph
    sources, moving = tails(graph)[0]
    kept = tuple(node.name for node in (*sources, *moving))
    mixed = replace(dense.quantized, quantization=replace(dense.quantized.quantization, in_float=kept))
    outputs = run_artifact(dense.captured, target, dense.targets[target].quantize(mixed), dense.images)
    simulated = Simulation(mixed.captured, mixed.quantization).outputs(dense.images)
    assert sqnr_db(simulated["boxes"], outputs["boxes"]) > ALIKE_DB
    levels = len(np.unique(outputs["boxes"]))
    assert levels > 10 * 256, "they are on a grid"


def test_any_number_of_images_has_its_lengths_left_alone() -> None:
    pixels = on_pixels(capture(source_of(trained()), batch=FREE))
    model = static_for_this_cpu(pixels, calibrate(pixels, CalibrationSamples(list(pictures(16, 1)), SPEC)))
    artifact = open_target("onnx").quantize(model)
    session = onnxruntime.InferenceSession(artifact.files[".onnx"], providers=["CPUExecutionProvider"])
    for n in (1, 3):
        assert [values.shape[0] for values in session.run(None, {"image": pictures(n, 4)})] == [n, n]


def test_openvino_joins_integers(dense: Dense) -> None:
    import openvino

    files = dense.file("openvino").files
    model = openvino.Core().read_model(files[".xml"], files[".bin"])
    with kept_signal_stack():
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [
        (str(node.get_rt_info()["layerType"].astype(str)), str(node.get_rt_info()["runtimePrecision"].astype(str)))
        for node in compiled.get_runtime_model().get_ops()
    ]
    joined = [precision for kind, precision in found if kind in ("Concat", "Concatenation")]
    # Two that put the border on, the decoder's, and the boxes, which are float32 from their layers on.
    assert sorted(joined) == ["f32", "u8", "u8", "u8"]


class Decoder(nn.Module):
    """A skip that is a residual sum, read by the encoder too, beside something upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.deep, self.last = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low = self.stem(image)
        skip = low + self.inner(low)
        up = functional.interpolate(self.deep(skip), scale_factor=2.0, mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.last(torch.cat([up, skip], 1))
        return logits


def test_a_join_moves_with_the_sum_that_it_has_its_grid_of() -> None:
    torch.manual_seed(0)
    model = quantized(Decoder(), ("mask",))
    graph, grids = model.captured.batched.graph, model.quantization.activations
    (join,) = joining(graph)
    up, skip = join.args[0]
    assert grids[join.name] == grids[skip.name] == grids[up.name]
    assert grids[up.all_input_nodes[0].name] != grids[up.name]


class Classifier(nn.Module):
    """It joins two branches, as Inception does, and gives one row of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, 1, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = self.stem(image).relu()
        joined = torch.cat([self.one(values).relu(), self.other(values).relu()], 1)
        logits: torch.Tensor = self.head(joined.mean((2, 3)))
        return logits


def test_a_classifiers_grids_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = quantized(Classifier(), ("logits",))
    assert shared_grids(model.captured.batched.graph, model.quantization.activations) == {}
