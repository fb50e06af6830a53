"""The three int8 files are one model: the same grids in front of every layer, the same integers inside."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgetl_export.artifact import Artifact
from edgetl_export.quantize.layers import Layer, exact, layers, rounded
from edgetl_export.quantize.quantization import Grid
from edgetl_export.targets import TARGETS
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.export.conftest import Int8


@dataclass(frozen=True)
class Found:
    """A layer as a file has it: the grid of its input, and of its weights scales and integers (channels, rest)."""

    input: Grid
    scales: npt.NDArray[np.float32]
    levels: npt.NDArray[np.int8]


def _by_channel(levels: npt.NDArray[np.int8], axis: int) -> npt.NDArray[np.int8]:
    """Sorted within each channel: formats lay them out differently."""
    return np.sort(np.moveaxis(levels, axis, 0).reshape(levels.shape[axis], -1), axis=1)


def in_onnx(artifact: Artifact) -> list[Found | None]:
    """The layers of an ONNX file in running order; None is one in float."""
    graph = onnx.load_from_string(artifact.files[".onnx"]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounding = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    found: list[Found | None] = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        source, weight = (rounding.get(name) for name in node.input[:2])
        if source is None or weight is None:
            assert node.input[1] in constants
            found.append(None)
            continue
        scale, zero_point = (constants[name] for name in source.input[1:])
        levels, scales, zeros = (constants[name] for name in weight.input)
        assert zero_point.dtype == np.uint8
        assert levels.dtype == np.int8
        assert not zeros.any()
        bias = rounding[node.input[2]]
        assert constants[bias.input[0]].dtype == np.int32
        np.testing.assert_allclose(constants[bias.input[1]], scale * scales, rtol=1e-6)
        found.append(Found(Grid(float(scale), int(zero_point)), scales, _by_channel(levels, 0)))
    return found


def in_tflite(artifact: Artifact) -> list[Found | None]:
    """The layers of a TFLite file in running order; None is one in float."""
    interpreter = _interpreter(artifact)
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    operators = [item for item in interpreter._get_ops_details() if item["op_name"] != "DELEGATE"]
    dequantised = {item["outputs"][0]: item["inputs"][0] for item in operators if item["op_name"] == "DEQUANTIZE"}
    found: list[Found | None] = []
    for operator in operators:
        if operator["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        source, weight = operator["inputs"][:2]
        if operator["op_name"] == "FULLY_CONNECTED":
            # The last one gives float logits: it rounds what it is given, float values that lie on the grid, anew.
            source = dequantised.get(source, source)
        if details[weight]["dtype"] is np.float32:
            found.append(None)
            continue
        assert details[source]["dtype"] is details[weight]["dtype"] is np.int8
        parameters = details[weight]["quantization_parameters"]
        assert not parameters["zero_points"].any()
        levels = _by_channel(interpreter.get_tensor(weight), parameters["quantized_dimension"])
        scales = parameters["scales"] * _shares(interpreter, operators, operator["outputs"][0])
        found.append(Found(_tflite_grid(details[source]), scales, levels))
    return found


def _shares(interpreter: Any, operators: list[dict[str, Any]], products: int) -> npt.NDArray[np.float32]:
    """The scales of the channels as shares of the one that the last layer's weights have; 1 for all others."""
    for operator in operators:
        if operator["op_name"] == "MUL" and products == operator["inputs"][0] and operator is operators[-2]:
            shares: npt.NDArray[np.float32] = interpreter.get_tensor(operator["inputs"][1])
            return shares
    return np.ones(1, np.float32)


def in_openvino(artifact: Artifact) -> list[Found | None]:
    """The layers of an OpenVINO file in running order; None is one in float."""
    found: list[Found | None] = []
    for node in _openvino(artifact).get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        source, weight = (node.input_value(place).get_node() for place in (0, 1))
        if weight.get_type_name() == "Constant":
            found.append(None)
            continue
        integers, scales = (weight.input_value(place).get_node() for place in (0, 1))
        levels = integers.input_value(0).get_node().get_data()
        assert levels.dtype == np.int8
        scales = scales.get_data().reshape(-1)
        found.append(Found(_openvino_grid(source), scales, _by_channel(levels.reshape(len(scales), -1), 0)))
    return found


READERS = {"onnx": in_onnx, "tflite": in_tflite, "openvino": in_openvino}


def _interpreter(artifact: Artifact) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=artifact.files[".tflite"], experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def _tflite_grid(tensor: dict[str, Any]) -> Grid:
    parameters = tensor["quantization_parameters"]
    (scale,), (zero_point,) = parameters["scales"], parameters["zero_points"]
    return Grid(float(scale), int(zero_point) + 128)


def _openvino(artifact: Artifact) -> Any:
    import openvino

    return openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])


def _openvino_grid(node: Any) -> Grid:
    assert node.get_type_name() == "FakeQuantize"
    assert node.get_attributes()["levels"] == 256
    low, high, *out = (float(node.input_value(place).get_node().get_data()) for place in range(1, 5))
    assert out == [low, high]
    scale = (high - low) / 255
    return Grid(scale, round(-low / scale))


def near(grid: Grid) -> Any:
    """Float32 rounding of the scale, or of both ends, is no difference."""
    return pytest.approx(dataclasses.astuple(grid), rel=1e-6)


def layers_of(network: Int8) -> list[Layer]:
    return layers(network.pixels.batched.graph)


def changed(network: Int8, target: str, **changes: Any) -> Artifact:
    """What the target writes with another quantisation."""
    quantization = dataclasses.replace(network.quantized.quantization, **changes)
    return network.targets[target].quantize(dataclasses.replace(network.quantized, quantization=quantization))


@pytest.fixture(params=["int8", "pooling"])
def network(request: pytest.FixtureRequest) -> Int8:
    """The networks all of whose layers are integers in all three formats."""
    found: Int8 = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_layer_has_the_grid_the_scales_and_the_integers_of_the_quantization(target: str, network: Int8) -> None:
    quantization, module = network.quantized.quantization, network.quantized.captured.module
    found = READERS[target](network.files[target])
    assert len(found) == len(layers_of(network))
    for layer, seen in zip(layers_of(network), found, strict=True):
        assert seen is not None, f"{layer.name} is in float"
        assert dataclasses.astuple(seen.input) == near(quantization.activations[layer.input]), layer.name
        scales = np.array(quantization.weights[layer.weight])
        np.testing.assert_allclose(seen.scales, scales, rtol=1e-6)
        weights = module.get_parameter(layer.weight).detach().double().numpy()
        expected = weights / scales.reshape(-1, *[1] * (weights.ndim - 1))
        # Half a level, and what float32 adds to it.
        assert np.abs(seen.levels - np.sort(expected.reshape(len(scales), -1), axis=1)).max() < 0.5001, layer.name


def test_the_files_hold_the_same_integers(network: Int8) -> None:
    files = [READERS[target](network.files[target]) for target in TARGETS]
    for together in zip(*files, strict=True):
        first, *others = (layer.levels for layer in together if layer is not None)
        assert len(others) == 2
        for other in others:
            # A weight half way between two levels may fall on either side.
            assert (first != other).mean() < 0.005


def test_the_files_decide_alike(network: Int8) -> None:
    logits = {target: network.logits(target) for target in TARGETS}
    for target, other in (("onnx", "tflite"), ("onnx", "openvino"), ("tflite", "openvino")):
        assert (logits[target].argmax(1) == logits[other].argmax(1)).mean() >= 0.985
        # ONNX Runtime and TFLite round inside a SiLU too, OpenVINO does not.
        assert sqnr_db(logits[target], logits[other]) > 30


def test_nothing_in_the_onnx_file_is_on_a_grid_of_its_own(network: Int8) -> None:
    graph = onnx.load_from_string(network.files["onnx"].files[".onnx"]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations = network.quantized.quantization.activations
    written = 0
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero_point = (constants[name] for name in node.input[1:])
            grid = Grid(float(scale), int(zero_point))
            inside_a_silu = Grid(float(np.float32(1 / 255)), 0)
            known = {*activations.values(), inside_a_silu}
            assert grid == activations[node.input[0]] if node.input[0] in activations else grid in known
            written += 1
    assert written >= len(layers_of(network))


def test_nothing_in_the_tflite_file_is_on_a_grid_of_its_own(network: Int8) -> None:
    known = {*network.quantized.quantization.activations.values(), Grid(1 / 256, 0)}
    interpreter = _interpreter(network.files["tflite"])
    weights = {item["inputs"][1] for item in interpreter._get_ops_details() if item["op_name"] == "FULLY_CONNECTED"}
    found = [
        _tflite_grid(tensor)
        for tensor in interpreter.get_tensor_details()
        if tensor["dtype"] is np.int8
        and tensor["index"] not in weights
        and len(tensor["quantization_parameters"]["scales"]) == 1
    ]
    assert len(found) >= len(layers_of(network))
    for grid in found:
        assert any(dataclasses.astuple(grid) == near(other) for other in known), grid


def test_nothing_in_the_openvino_file_is_on_a_grid_of_its_own(network: Int8) -> None:
    known = set(network.quantized.quantization.activations.values())
    operators = _openvino(network.files["openvino"]).get_ordered_ops()
    found = [_openvino_grid(node) for node in operators if node.get_type_name() == "FakeQuantize"]
    graph = network.pixels.batched.graph
    everywhere = set(rounded(graph)) if exact(graph) else set()
    assert len(found) == len({layer.input for layer in layers_of(network)} | everywhere)
    for grid in found:
        assert any(dataclasses.astuple(grid) == near(other) for other in known), grid


@pytest.mark.parametrize(
    ("scale", "zero_point", "clips"),
    [(6 / 255, 0, 0), (3 / 255, 0, 0), (12 / 255, 0, 1), (6.5 / 255, 10, 1), (6.03 / 255, 0, 1)],
    ids=["as the activation", "below its limit", "beyond its limit", "below zero", "more than half a step beyond"],
)
def test_a_grid_replaces_an_activation_only_when_it_clips_alike(
    scale: float, zero_point: int, clips: int, int8: Int8
) -> None:
    layer = next(layer for layer in layers_of(int8) if layer.name == "last.0")
    grids = {**int8.quantized.quantization.activations, layer.output: Grid(float(np.float32(scale)), zero_point)}
    artifact = changed(int8, "onnx", activations=grids)
    graph = onnx.load_from_string(artifact.files[".onnx"]).graph
    assert [node.op_type for node in graph.node].count("Clip") == clips


def test_an_activation_that_the_grid_does_is_gone_from_the_file(pooling: Int8) -> None:
    graph = onnx.load_from_string(pooling.files["onnx"].files[".onnx"]).graph
    kinds = [node.op_type for node in graph.node]
    assert "Relu" not in kinds
    assert "MaxPool" in kinds
    layer = next(layer for layer in layers_of(pooling) if layer.name == "inner.0")
    grids = {**pooling.quantized.quantization.activations, layer.output: Grid(0.05, 20)}
    graph = onnx.load_from_string(changed(pooling, "onnx", activations=grids).files[".onnx"]).graph
    assert [node.op_type for node in graph.node].count("Relu") == 1


@pytest.mark.parametrize("name", ["expand.3", "project.0", "head"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_stays_in_float_in_every_format(target: str, name: str, int8: Int8) -> None:
    kept = [layer for layer in layers_of(int8) if layer.name == name]
    artifact = changed(int8, target, in_float=(kept[0].node, kept[0].output))
    found = READERS[target](artifact)
    in_float = [layer.name for layer, seen in zip(layers_of(int8), found, strict=True) if seen is None]
    assert in_float == [name]
    assert artifact.quantization is not None
    assert sum(artifact.quantization["float_operators"].values()) > 0
    in_int8 = sqnr_db(int8.reference, int8.logits(target))
    assert sqnr_db(int8.reference, int8.logits(target, artifact)) > in_int8 - 0.5


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_nothing_to_quantise_is_an_error(target: str, int8: Int8) -> None:
    nodes = tuple(node.name for node in int8.pixels.batched.graph.nodes)
    with pytest.raises(ExportError, match="no operator of this network could be quantised"):
        changed(int8, target, in_float=nodes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["pooling", "hard", "attentive", "channelwise"])
def test_other_networks_decide_like_the_original(kind: str, target: str, request: pytest.FixtureRequest) -> None:
    found: Int8 = request.getfixturevalue(kind)
    reference, logits = found.reference, found.logits(target)
    assert sqnr_db(reference, logits) > 20
    assert (reference.argmax(1) == logits.argmax(1)).mean() >= 0.95
    summary = found.files[target].quantization
    assert summary is not None
    assert summary["method"] == "static"
    if kind == "attentive":  # but for what attention multiplies with itself
        assert target != "onnx" or summary["float_operators"]["MatMul"] == 2
    elif target != "tflite":
        assert not {"Conv", "Gemm", "Convolution", "MatMul"} & set(summary["float_operators"])


@pytest.mark.parametrize(("kind", "in_float"), [("attentive", 2), ("channelwise", 0)])
def test_onnx_runtime_multiplies_integers_where_a_bias_is_a_node_of_its_own(
    kind: str, in_float: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Otherwise it turns the weights into floats in every run, which takes longer than to have them so."""
    network: Int8 = request.getfixturevalue(kind)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(network.files["onnx"].files[".onnx"], options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert sum(kinds[name] for name in ("Gemm", "MatMul", "FusedMatMul")) == in_float


def test_the_image_becomes_integers_by_way_of_float(network: Int8) -> None:
    """XNNPACK has no kernel from uint8 to int8: the plain one took 92 us of MobileNetV2's 1,600, the way round 12."""
    kinds = [item["op_name"] for item in _interpreter(network.files["tflite"])._get_ops_details()]
    assert kinds[:2] == ["CAST", "QUANTIZE"]


def test_tflite_computes_hardswish_in_float(hard: Int8) -> None:
    """XNNPACK has no integer kernel for it, and everything around it would be cut into pieces."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = _interpreter(hard.files["tflite"])
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    found = [item for item in interpreter._get_ops_details() if item["op_name"] == "HARD_SWISH"]
    assert len(found) == 4
    assert {types[index] for item in found for index in (*item["inputs"], *item["outputs"])} == {np.float32}
    quantization = hard.files["tflite"].quantization
    assert quantization is not None
    # Nothing else: the convolution that is half of a hardsigmoid multiplies integers too.
    assert quantization["float_operators"] == {"CAST": 1, "HARD_SWISH": 4}
    delegated = Interpreter(model_content=hard.files["tflite"].files[".tflite"])
    delegated.allocate_tensors()
    assert [item["op_name"] for item in delegated._get_ops_details()].count("DELEGATE") == 1
