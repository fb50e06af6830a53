"""A float OpenVINO model made smaller in place: weights as float16, or as int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13
from openvino.passes import ConstantFolding, Manager

from edgetl_export.quantize.quantization import weight_integers
from edgetl_export.quantize.static import FULL_LEVELS
from edgetl_runtime.errors import ExportError

__all__ = ["halve_in_place", "put_integers", "round_weights_in_place", "weight_rows", "weighted_operators"]

_WEIGHTED = {"Convolution": (0,), "GroupConvolution": (0, 1), "MatMul": (0,)}
"""Operators with weights, and the axes of the weights that are output channels."""

_DYNAMIC_GROUP = 32
"""Channels of an activation that share a scale found at run time: the CPU plugin's own default."""


def round_weights_in_place(model: openvino.Model, *, dynamic: bool) -> None:
    """All weights int8 symmetric per output channel; activations stay float32, of matrix products if not `dynamic`.

    Whether the CPU plugin quantises the activations of matrix products as they come is written into the file, as
    the size of the groups of channels that share a scale (0: not at all); its own default is to do so. A convolution
    never does. Raises `ExportError` when there is nothing to round, or no matrix product to be `dynamic`.
    """
    weighted = weighted_operators(model)
    if dynamic and all(node.get_type_name() != "MatMul" for node in weighted):
        raise ExportError(
            "no matrix product with constant weights: OpenVINO quantises nothing else at run time",
            fix="choose w8 instead of dynamic",
        )
    if not weighted:
        raise ExportError("this network has no layers with weights", fix="choose fp32")
    for node in weighted:
        rows = weight_rows(node)
        scales = (np.maximum(np.abs(rows).max(1), 1e-12) / FULL_LEVELS).astype(np.float32)
        put_integers(node, weight_integers(rows, scales, 0, FULL_LEVELS), scales)
    model.set_rt_info(str(_DYNAMIC_GROUP if dynamic else 0), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    model.validate_nodes_and_infer_types()


def halve_in_place(model: openvino.Model) -> None:
    """Dense weights as float16 constants with a Convert behind them, depthwise kernels as they are (see `to_onnx`).

    Raises `ExportError` for a weight beyond what float16 holds.
    """
    for node in weighted_operators(model):
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


def weighted_operators(model: openvino.Model) -> list[Any]:
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


def weight_rows(node: Any) -> npt.NDArray[np.float32]:
    """The constant weights of `node`, one row per output channel."""
    weights: npt.NDArray[np.float32] = node.input_value(1).get_node().get_data()
    channels = len(_WEIGHTED[node.get_type_name()])
    return weights.reshape(int(np.prod(weights.shape[:channels])), -1)


def put_integers(node: Any, rows: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> None:
    """Make the weights of `node` an int8 constant, one of `rows` per output channel, times its float32 scale."""
    shape = tuple(node.input_value(1).get_node().get_data().shape)
    channels = len(_WEIGHTED[node.get_type_name()])
    levels = opset13.convert(opset13.constant(rows.reshape(shape)), "f32")
    scale = opset13.constant(scales.reshape(*shape[:channels], *[1] * (len(shape) - channels)))
    node.input(1).replace_source_output(opset13.multiply(levels, scale).output(0))
