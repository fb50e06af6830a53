"""A float OpenVINO model made smaller in place: weights as float16, or int8 with the shared ranges as FakeQuantize.

OpenVINO fuses what follows a convolution into it, SiLU included, when nothing stands between them. So only the inputs
of convolutions and matrix products are quantised, where ONNX Runtime wants pairs around every operator: the same
scales, placed as this engine likes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13
from openvino.passes import ConstantFolding, Manager

from edgetl_export.quantize.calibrate import Calibration
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.ranges import Range
from edgetl_runtime.errors import ExportError

__all__ = ["halve_in_place", "quantize_in_place"]

_WEIGHTED = {"Convolution": (0,), "GroupConvolution": (0, 1), "MatMul": (0,)}
"""Operators with weights, and the axes of the weights that are output channels."""


def quantize_in_place(model: openvino.Model, calibration: Calibration) -> dict[str, object]:
    """Static int8: activations uint8 per tensor, weights int8 symmetric per output channel; what the manifest says.

    An operator is quantised when its input was found among the calibrated activations. Raises `ExportError` when no
    operator can be quantised.
    """
    weighted = _weighted(model)
    ranges = _input_ranges(model, weighted, calibration)
    quantized: dict[tuple[str, int], Any] = {}
    left: dict[str, int] = {}
    for node in weighted:
        source = node.input_value(0)
        found = ranges.get(_key(source))
        if found is None:
            left[node.get_type_name()] = left.get(node.get_type_name(), 0) + 1
            continue
        if _key(source) not in quantized:
            quantized[_key(source)] = _on_grid(source, found)
        node.input(0).replace_source_output(quantized[_key(source)].output(0))
        node.input(1).replace_source_output(_int8_weights(node).output(0))
    if not quantized:
        raise ExportError("no operator of this network could be quantised", fix="leave int8 out of --precisions")
    model.validate_nodes_and_infer_types()
    return calibration.summary() | {"activations": "uint8 per tensor", "float_operators": left}


def halve_in_place(model: openvino.Model) -> None:
    """Dense weights as float16 constants with a Convert behind them, depthwise kernels as they are (see `to_onnx`).

    Raises `ExportError` for a weight beyond what float16 holds.
    """
    for node in _weighted(model):
        if node.get_type_name() == "GroupConvolution":
            continue
        weights: npt.NDArray[np.float32] = node.input_value(1).get_node().get_data()
        if float(np.abs(weights).max()) > np.finfo(np.float16).max:
            raise ExportError(
                f"a weight of {node.get_friendly_name()} is beyond what float16 holds",
                fix="leave fp16 out of --precisions",
            )
        halved = opset13.convert(opset13.constant(weights.astype(np.float16)), "f32")
        node.input(1).replace_source_output(halved.output(0))
    model.validate_nodes_and_infer_types()


def _weighted(model: openvino.Model) -> list[Any]:
    """The operators with constant weights, in running order; constants are folded first."""
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return [node for node in model.get_ordered_ops() if _has_weights(node)]


def _has_weights(node: Any) -> bool:
    if node.get_type_name() not in _WEIGHTED:
        return False
    if node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]:
        return False
    return bool(node.input_value(1).get_node().get_type_name() == "Constant")


def _key(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _input_ranges(model: openvino.Model, weighted: list[Any], calibration: Calibration) -> dict[tuple[str, int], Range]:
    """The shared range of every weighted operator's input that has one."""
    watched = model.clone()
    named = {node.get_friendly_name(): node for node in watched.get_ops()}
    keys = list(dict.fromkeys(_key(node.input_value(0)) for node in weighted))
    first = len(watched.outputs)
    watched.add_outputs([named[name].output(index) for name, index in keys])
    compiled = openvino.compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled([calibration.probe])
    values = {
        f"{name}:{index}": np.array(result[first + place], np.float32) for place, (name, index) in enumerate(keys)
    }
    matched = match_by_value(calibration.values, values)
    return {
        (name, index): calibration.ranges[matched[f"{name}:{index}"]]
        for name, index in keys
        if f"{name}:{index}" in matched
    }


def _on_grid(source: Any, found: Range) -> Any:
    """`source` rounded to the 256 levels of `found`, zero being one of them."""
    low, high = found.on_grid()
    bottom, top = opset13.constant(np.float32(low)), opset13.constant(np.float32(high))
    return opset13.fake_quantize(source, bottom, top, bottom, top, levels=256)


def _int8_weights(node: Any) -> Any:
    """The node's weights as an int8 constant times a float32 scale per output channel."""
    weights: npt.NDArray[np.float32] = node.input_value(1).get_node().get_data()
    channels = _WEIGHTED[node.get_type_name()]
    others = tuple(axis for axis in range(weights.ndim) if axis not in channels)
    scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True), 1e-12) / 127.0
    integers = np.clip(np.round(weights / scale), -127, 127).astype(np.int8)
    return opset13.multiply(
        opset13.convert(opset13.constant(integers), "f32"), opset13.constant(scale.astype(np.float32))
    )
