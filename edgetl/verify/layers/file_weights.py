"""The weights of a file as they are stored: their type, their scales, and the values that they stand for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.engines import ModelBytes
from edgetl_runtime.errors import EngineError, MissingDependency

__all__ = [
    "FileWeights",
    "port_name",
    "read_file_weights",
    "weights_in_onnx",
    "weights_in_openvino",
    "weights_in_tflite",
]

_FOUR_BIT_VALUES = 16
_LEAST_TO_COUNT = 64
_ON_GRID = 0.04
"""Of a step. Values rounded to 4 bits and then to 8 are this near to the coarse grid; of others, one in twelve is."""
_NEARLY_ALL = 0.99


@dataclass(frozen=True, eq=False)
class FileWeights:
    """Constant weights of one operator.

    ``values`` is (output channels, weights of each) float32, dequantised; ``dtype`` the name of the type in the file;
    ``scales`` (1,) or (channels,) float32, None for floats.
    """

    dtype: str
    values: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32] | None = None

    def __str__(self) -> str:
        """In words: ``int8 per channel``, ``float16``, ``int8 per tensor, 4 bits``."""
        grain = f" per {'tensor' if self.is_per_tensor else 'channel'}" if self.is_integer else ""
        broken = "" if np.isfinite(self.values).all() else ", not finite"
        return f"{self.dtype}{grain}{', 4 bits' if self.is_four_bit else ''}{broken}"

    @property
    def is_integer(self) -> bool:
        """Whether the file holds integers with scales."""
        return "int" in self.dtype or self.dtype.lstrip("ui").isdigit()

    @property
    def is_per_tensor(self) -> bool:
        """Whether integers share one scale where every channel could have its own."""
        return self.is_integer and self.scales is not None and len(self.values) > 1 and self.scales.size == 1

    @property
    def is_four_bit(self) -> bool:
        """Whether the values are those of 4 bits: 15 or 16 in all, or of every channel multiples of its largest / 7."""
        if not np.isfinite(self.values).all():
            return False
        if self.values.size >= _LEAST_TO_COUNT and np.unique(self.values).size <= _FOUR_BIT_VALUES:
            return bool(self.values.any())
        largest = np.abs(self.values).max(axis=1, keepdims=True)
        alive = largest[:, 0] > 0
        levels = self.values[alive] / largest[alive] * 7
        # The largest of every channel and zeros say nothing.
        telling = levels[(np.abs(levels) > _ON_GRID) & (np.abs(levels) < 7 - _ON_GRID)]
        near = np.abs(telling - np.round(telling)) <= _ON_GRID
        return telling.size >= _LEAST_TO_COUNT and float(near.mean()) >= _NEARLY_ALL

    @property
    def dead_channels(self) -> tuple[int, ...]:
        """Output channels all of whose weights are zero."""
        return tuple(int(index) for index in np.flatnonzero(~self.values.any(axis=1)))


def _by_channel(values: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float32]:
    moved = np.moveaxis(values, axis, 0)
    flat: npt.NDArray[np.float32] = moved.reshape(len(moved), -1).astype(np.float32)
    return flat


def _scaled(levels: npt.NDArray[Any], scales: npt.NDArray[Any], zeros: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """``(level - zero) * scale``, one of each or one for every place along `axis`."""
    shape = [-1 if place == axis % levels.ndim else 1 for place in range(levels.ndim)]
    scale = scales.reshape(shape if scales.size > 1 else [1] * levels.ndim)
    zero = zeros.reshape(shape if zeros.size > 1 else [1] * levels.ndim)
    values: npt.NDArray[Any] = (levels.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    return values


@dataclass(frozen=True, eq=False)
class _Constant:
    dtype: str
    values: npt.NDArray[Any]
    scales: npt.NDArray[Any] | None = None


def weights_in_onnx(graph: Any) -> dict[str, FileWeights]:
    """By output tensor of a Conv, Gemm or MatMul of an ONNX `graph` its constant weights."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}

    def attribute(node: Any, name: str, default: Any) -> Any:
        return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)

    def constant(name: str) -> _Constant | None:
        if name in constants:
            values = onnx.numpy_helper.to_array(constants[name])
            return _Constant(str(onnx.helper.tensor_dtype_to_np_dtype(constants[name].data_type)), values)
        node = makers.get(name)
        source = constant(node.input[0]) if node is not None and node.input else None
        if node is None or source is None:
            return None
        if node.op_type in ("Cast", "Identity"):
            return source
        if node.op_type == "Transpose":
            order = attribute(node, "perm", None)
            return _Constant(source.dtype, source.values.transpose(order), source.scales)
        scale = constant(node.input[1]) if node.op_type == "DequantizeLinear" else None
        if scale is None:
            return None
        zero = constant(node.input[2]) if len(node.input) > 2 else None
        zeros = np.zeros(1, np.int32) if zero is None else zero.values
        values = _scaled(source.values, scale.values, zeros, attribute(node, "axis", 1))
        return _Constant(source.dtype, values, scale.values.reshape(-1))

    found: dict[str, FileWeights] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        weights = constant(node.input[1])
        if weights is not None and weights.values.ndim > 1:
            first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
            found[node.output[0]] = _file_weights(weights, 0 if first else -1)
    return found


def weights_in_tflite(interpreter: Any) -> dict[str, FileWeights]:
    """By index of the output tensor, as text, the constant weights of a LiteRT `interpreter`'s operators."""
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    widened = {op["outputs"][0]: op["inputs"][0] for op in operators if op["op_name"] == "DEQUANTIZE"}
    axes = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": -1, "FULLY_CONNECTED": 0}
    made = {int(index) for operator in operators for index in operator["outputs"]}
    found: dict[str, FileWeights] = {}
    for operator in operators:
        if operator["op_name"] not in axes:
            continue
        index = widened.get(operator["inputs"][1], operator["inputs"][1])
        if index in made:
            continue
        detail, levels = details[index], interpreter.get_tensor(index)
        grid = detail["quantization_parameters"]
        shares = _shares(interpreter, operators, operator, made)
        scales = grid["scales"] * shares if grid["scales"].size else grid["scales"]
        if scales.size:
            zero_points = np.broadcast_to(grid["zero_points"], scales.shape)
            values = _scaled(levels, scales, zero_points, grid["quantized_dimension"])
            weights = _Constant(str(levels.dtype), values, scales)
        else:
            weights = _Constant(str(levels.dtype), levels)
        found[str(operator["outputs"][0])] = _file_weights(weights, axes[operator["op_name"]])
    return found


def _shares(
    interpreter: Any, operators: list[dict[str, Any]], layer: dict[str, Any], made: set[int]
) -> npt.NDArray[np.float32]:
    """What the products of `layer` are multiplied with behind it, by channel; 1 for all that are not.

    A last layer that gives float logits has one scale for all its weights, and the channels' shares of it behind (see
    `edgetl_export.targets.tflite_last_layer`).
    """
    behind = [
        int(operator["inputs"][1])
        for operator in operators
        if operator["op_name"] == "MUL" and operator["inputs"][0] == layer["outputs"][0]
    ]
    if layer["op_name"] != "FULLY_CONNECTED" or len(behind) != 1 or behind[0] in made:
        return np.ones(1, np.float32)
    shares: npt.NDArray[np.float32] = interpreter.get_tensor(behind[0])
    return shares


def weights_in_openvino(ordered: Any) -> dict[str, FileWeights]:
    """By `port_name` of the output the constant weights of convolutions and matrix products among `ordered` nodes."""
    found: dict[str, FileWeights] = {}
    for node in ordered:
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        weights = _openvino_constant(node.input_value(1).get_node())
        if weights is None or weights.values.ndim < 2:
            continue
        if kind == "GroupConvolution":  # groups and channels of each
            shape = weights.values.shape
            weights = _Constant(weights.dtype, weights.values.reshape(-1, *shape[2:]), weights.scales)
        first = kind != "MatMul" or node.get_attributes().get("transpose_b", False)
        found[port_name(node.output(0))] = _file_weights(weights, 0 if first else -1)
    return found


_OPENVINO_TYPES: Mapping[str, str] = {"f32": "float32", "f16": "float16", "i8": "int8", "u8": "uint8", "i4": "int4"}


def _openvino_constant(node: Any) -> _Constant | None:
    kind = node.get_type_name()
    if kind == "Constant":
        dtype = node.get_element_type().get_type_name()
        return _Constant(_OPENVINO_TYPES.get(dtype, dtype), np.array(node.data))
    if kind not in ("Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize"):
        return None
    source = _openvino_constant(node.input_value(0).get_node())
    if source is None or kind == "Convert":
        return source
    if kind == "Reshape":
        return _Constant(source.dtype, source.values.reshape(tuple(node.get_output_shape(0))), source.scales)
    other = _openvino_constant(node.input_value(1).get_node())
    if other is None:
        return None
    if kind == "Subtract":
        return _Constant(source.dtype, source.values.astype(np.float32) - other.values, source.scales)
    if kind == "Multiply":
        return _Constant(source.dtype, source.values.astype(np.float32) * other.values, other.values.reshape(-1))
    high = _openvino_constant(node.input_value(2).get_node())
    if high is None:
        return None
    steps = (high.values - other.values).reshape(-1) / (node.get_attributes()["levels"] - 1)
    return _Constant("int8", source.values, steps)


def _file_weights(weights: _Constant, axis: int) -> FileWeights:
    scales = None if weights.scales is None else np.asarray(weights.scales, np.float32).reshape(-1)
    return FileWeights(weights.dtype, _by_channel(weights.values, axis), scales)


def read_file_weights(engine: str, model: ModelBytes) -> dict[str, FileWeights]:
    """The weights of `model`, by the output tensor of each operator; nothing is run.

    Raises `EngineError` when `engine` is unknown or the file cannot be read, `MissingDependency` when what reads it is
    not installed.
    """
    readers = {"onnxruntime": _read_onnx, "litert": _read_tflite, "openvino": _read_openvino}
    if engine not in readers:
        raise EngineError(f"{model.name}: the weights of engine {engine} cannot be read")
    return readers[engine](model)


def _read_onnx(model: ModelBytes) -> dict[str, FileWeights]:
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependency("onnx", needed_for="reading the weights of ONNX files", extra="export") from None
    try:
        return weights_in_onnx(onnx.ModelProto.FromString(model.main).graph)
    except (DecodeError, ValueError) as error:
        raise EngineError(f"cannot read {model.name}: {error}") from error


def _read_tflite(model: ModelBytes) -> dict[str, FileWeights]:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise MissingDependency("ai-edge-litert", needed_for="reading TFLite weights", extra="tflite") from None
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with warnings.catch_warnings(action="ignore"):  # that this is for debugging: it is what we do
            interpreter = Interpreter(model_content=model.main, experimental_op_resolver_type=plain)
        interpreter.allocate_tensors()
        return weights_in_tflite(interpreter)
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"cannot read {model.name}: {error}") from error


def _read_openvino(model: ModelBytes) -> dict[str, FileWeights]:
    try:
        import openvino
    except ImportError:
        raise MissingDependency("openvino", needed_for="reading OpenVINO weights", extra="openvino") from None
    try:
        weights = openvino.Tensor(np.frombuffer(model.weights or b"", np.uint8))
        loaded = openvino.Core().read_model(model.main, weights)
    except RuntimeError as error:
        raise EngineError(f"cannot read {model.name}: {error}") from error
    return weights_in_openvino(loaded.get_ordered_ops())


def port_name(output: Any) -> str:
    """What an output of an OpenVINO node is called here."""
    return f"{output.get_node().get_friendly_name()}:{output.get_index()}"
