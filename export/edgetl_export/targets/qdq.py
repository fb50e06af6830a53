"""A float ONNX graph with the shared ranges written in as QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from edgetl_export.quantize.calibrate import Calibration
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.ranges import Range
from edgetl_runtime.errors import ExportError

__all__ = ["Quantized", "quantize_qdq"]

FIXED_RANGES = {"Sigmoid": Range(0.0, 1.0), "Softmax": Range(0.0, 1.0)}
"""Operators whose output range is known without looking."""


OPERATORS = ("Conv", "Clip", "Relu", "Add", "Mul", "Sigmoid", "Gemm", "MatMul", "GlobalAveragePool", "MaxPool")
"""ONNX Runtime fuses an operator with the pairs around it, so each of these stands between pairs."""


@dataclass(frozen=True)
class Quantized:
    """The QDQ model and what the manifest says of it."""

    model: onnx.ModelProto
    summary: dict[str, object]


def quantize_qdq(model: onnx.ModelProto, calibration: Calibration) -> Quantized:
    """Static int8: activations uint8 per tensor, weights int8 symmetric per output channel, int32 biases.

    An operator is quantised when all its activations were found among the calibrated ones; the normalisation in
    front stays in float. Raises `ExportError` when no operator can be quantised.
    """
    model = _prepared(model)
    ranges = _ranges_by_tensor(model, calibration)
    chosen, left = _choose(model, ranges)
    if not chosen:
        raise ExportError("no operator of this network could be quantised", fix="leave int8 out of --precisions")
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {
                name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high))
                for name, found in ranges.items()
            },
        ),
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            # Matrix products give float32: the logits are not rounded, another one behind quantises its own input.
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )
    quantizer.quantize_model()
    summary = calibration.summary() | {"activations": "uint8 per tensor", "float_operators": left}
    return Quantized(quantizer.model.model, summary)


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with shapes inferred, node names, and average pooling in its integer-friendly form."""
    copied = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for index, node in enumerate(copied.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _pool_globally(copied)
    return copied


def _pool_globally(model: onnx.ModelProto) -> None:
    """ReduceMean over height and width becomes GlobalAveragePool, which engines run on integers."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2:
            continue
        axes = constants.get(node.input[1])
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        if axes is not None and keeps and sorted(int(axis) for axis in axes) in ([-2, -1], [2, 3]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _ranges_by_tensor(model: onnx.ModelProto, calibration: Calibration) -> dict[str, Range]:
    values = _values_on(model, calibration.probe)
    matched = match_by_value(calibration.values, values)
    ranges = {name: calibration.ranges[original] for name, original in matched.items()}
    for node in model.graph.node:
        if node.op_type in FIXED_RANGES:
            ranges[node.output[0]] = FIXED_RANGES[node.op_type]
    return ranges


def _values_on(model: onnx.ModelProto, probe: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Every float activation of the graph for one image, computed without any fusion."""
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    made = {output for node in watched.graph.node for output in node.output}
    listed = {output.name for output in watched.graph.output}
    for value in watched.graph.value_info:
        is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        if is_float and value.name in made and value.name not in listed:
            watched.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: probe}), strict=True))


def _choose(model: onnx.ModelProto, ranges: dict[str, Range]) -> tuple[list[str], dict[str, int]]:
    """Names of the nodes to quantise, and a count by operator of those that stay in float."""
    made = {output for node in model.graph.node for output in node.output}
    normalising = _normalising(model)
    chosen: list[str] = []
    left: dict[str, int] = {}
    for node in model.graph.node:
        activations = [name for name in (*node.input, *node.output) if name in made]
        if (
            node.op_type in OPERATORS
            and node.name not in normalising
            and activations
            and all(name in ranges for name in activations)
        ):
            chosen.append(node.name)
        else:
            left[node.op_type] = left.get(node.op_type, 0) + 1
    return chosen, left


def _normalising(model: onnx.ModelProto) -> set[str]:
    """The element-wise nodes between the image and the first convolution: kept exact, they cost next to nothing."""
    reached = {tensor.name for tensor in model.graph.input}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Cast", "Mul", "Add", "Transpose") and any(name in reached for name in node.input):
            found.add(node.name)
            reached.update(node.output)
    return found
