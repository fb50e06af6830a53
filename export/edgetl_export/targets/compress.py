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

from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.static import FULL_LEVELS
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.errors import ExportError

__all__ = ["halve_in_place", "quantize_in_place", "round_weights_in_place"]

_WEIGHTED = {"Convolution": (0,), "GroupConvolution": (0, 1), "MatMul": (0,)}
"""Operators with weights, and the axes of the weights that are output channels."""

_DYNAMIC_GROUP = 32
"""Channels of an activation that share a scale found at run time: the CPU plugin's own default."""


def quantize_in_place(model: openvino.Model, quantized: Quantized) -> dict[str, int]:
    """Activations uint8 per tensor, weights int8 symmetric per output channel; counts what stays in float.

    An operator is quantised when its input was found among the calibrated activations and its node is not to stay in
    float. Raises `ExportError` when no operator can be quantised.
    """
    weighted = _weighted(model)
    nodes = _nodes_of(model, weighted, quantized)
    grids = quantized.quantization.activations
    rounded: dict[tuple[str, int], Any] = {}
    left: dict[str, int] = {}
    in_float = _inputs_in_float(quantized)
    for node in weighted:
        source = node.input_value(0)
        found = nodes.get(_key(source))
        if found is None or found in in_float:
            left[node.get_type_name()] = left.get(node.get_type_name(), 0) + 1
            continue
        if _key(source) not in rounded:
            rounded[_key(source)] = _on_grid(source, grids[found])
        node.input(0).replace_source_output(rounded[_key(source)].output(0))
        node.input(1).replace_source_output(_integer_weights(node, quantized).output(0))
    if not rounded:
        raise ExportError("no operator of this network could be quantised", fix="leave int8 out of --precisions")
    if quantized.captured.takes_pixels:
        _feed_pixels(model)
    model.validate_nodes_and_infer_types()
    return left


def _feed_pixels(model: openvino.Model) -> None:
    """Borders put on the image while it is uint8, so that the first layer reads integers instead of float32."""
    source: Any = model.inputs[0]
    readers = [target.get_node() for target in source.get_target_inputs()]
    if len(readers) != 1 or readers[0].get_type_name() != "Convert":
        return
    output = readers[0].output(0)
    while True:
        readers = [target.get_node() for target in output.get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() != "Concat":
            break
        parts = [
            source if part == output else opset13.constant(part.get_node().get_data().astype(np.uint8)).output(0)
            for part in readers[0].input_values()
        ]
        source = opset13.concat(parts, readers[0].get_attributes()["axis"]).output(0)
        output = readers[0].output(0)
    levels = opset13.convert(source, "f32")
    for target in list(output.get_target_inputs()):
        target.replace_source_output(levels.output(0))


def round_weights_in_place(model: openvino.Model, *, dynamic: bool) -> None:
    """All weights int8 symmetric per output channel; activations stay float32, of matrix products if not `dynamic`.

    Whether the CPU plugin quantises the activations of matrix products as they come is written into the file, as
    the size of the groups of channels that share a scale (0: not at all); its own default is to do so. A convolution
    never does. Raises `ExportError` when there is nothing to round, or no matrix product to be `dynamic`.
    """
    weighted = _weighted(model)
    if dynamic and all(node.get_type_name() != "MatMul" for node in weighted):
        raise ExportError(
            "no matrix product with constant weights: OpenVINO quantises nothing else at run time",
            fix="choose w8 instead of dynamic",
        )
    if not weighted:
        raise ExportError("this network has no layers with weights", fix="choose fp32")
    for node in weighted:
        node.input(1).replace_source_output(_integer_weights(node, None).output(0))
    model.set_rt_info(str(_DYNAMIC_GROUP if dynamic else 0), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    model.validate_nodes_and_infer_types()


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


def _nodes_of(model: openvino.Model, weighted: list[Any], quantized: Quantized) -> dict[tuple[str, int], str]:
    """The captured node of every weighted operator's input that has one."""
    watched = model.clone()
    named = {node.get_friendly_name(): node for node in watched.get_ops()}
    keys = list(dict.fromkeys(_key(node.input_value(0)) for node in weighted))
    # What is an output already, as a feature may be, is not added again.
    listed = {_key(output.input_value(0)) for output in watched.get_results()}
    watched.add_outputs([named[name].output(index) for name, index in keys if (name, index) not in listed])
    places = {_key(output.input_value(0)): place for place, output in enumerate(watched.get_results())}
    with kept_signal_stack():
        compiled = openvino.compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled([quantized.probe])
    values = {f"{name}:{index}": np.array(result[places[name, index]], np.float32) for name, index in keys}
    matched = match_by_value(quantized.values, values)
    return {(name, index): matched[f"{name}:{index}"] for name, index in keys if f"{name}:{index}" in matched}


def _inputs_in_float(quantized: Quantized) -> set[str]:
    """Nodes whose values are read by layers that stay in float alone, under the names that `match_by_value` gives."""
    reading: dict[str, bool] = {}
    in_float = set(quantized.quantization.in_float)
    found = layers(quantized.captured.batched.graph)
    # A pooled tensor and the same one flattened are two nodes with the same values: either may be found.
    named = match_by_value(quantized.values, {layer.input: quantized.values[layer.input] for layer in found})
    for layer in found:
        source = named.get(layer.input, layer.input)
        reading[source] = reading.get(source, True) and layer.output in in_float
    return {name for name, alone in reading.items() if alone}


def _on_grid(source: Any, grid: Grid) -> Any:
    """`source` rounded to the 256 levels of `grid`."""
    bottom, top = opset13.constant(np.float32(grid.low)), opset13.constant(np.float32(grid.high))
    return opset13.fake_quantize(source, bottom, top, bottom, top, levels=256)


def _integer_weights(node: Any, quantized: Quantized | None) -> Any:
    """The node's weights as an int8 constant times a float32 scale per output channel, that of `quantized` if given."""
    weights: npt.NDArray[np.float32] = node.input_value(1).get_node().get_data()
    channels = len(_WEIGHTED[node.get_type_name()])
    shape = (*weights.shape[:channels], *[1] * (weights.ndim - channels))
    rows = weights.reshape(int(np.prod(weights.shape[:channels])), -1)
    if quantized is None:
        levels, scales = FULL_LEVELS, np.maximum(np.abs(rows).max(1), 1e-12) / FULL_LEVELS
    else:
        levels, scales = quantized.quantization.weight_levels, quantized.channel_scales(rows, 0)
    scale = scales.astype(np.float32).reshape(shape)
    integers = np.clip(np.round(weights / scale), -levels, levels).astype(np.int8)
    return opset13.multiply(opset13.convert(opset13.constant(integers), "f32"), opset13.constant(scale))
