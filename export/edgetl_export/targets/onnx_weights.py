"""A float ONNX graph with int8 weights: dequantised inside, or multiplied with activations rounded at run time.

Weights are symmetric, with a scale per output channel. They reach a float operator through Cast and Mul, which ONNX
Runtime computes once, when it loads; a DequantizeLinear it would leave in the graph, for the sake of its integer
operators, and compute for every image: MobileNetV2 then took twice as long as fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgetl_export.quantize.quantization import weight_integers
from edgetl_export.quantize.static import FULL_LEVELS, SAFE_LEVELS
from edgetl_runtime.errors import ExportError
from edgetl_runtime.machine import cpu_features

__all__ = ["multiply_dynamically", "round_weights"]

_PRODUCTS = ("Gemm", "MatMul")
_WEIGHTED = ("Conv", *_PRODUCTS)


def round_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions and matrix products have int8 weights; they compute in float32.

    Raises `ExportError` when it has none.
    """
    return _written(model, dynamic=False)


def multiply_dynamically(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose matrix products round inputs to uint8 as they come (DynamicQuantizeLinear), in integers.

    Convolutions have int8 weights but compute in float32: ConvInteger made MobileNetV2 five to ten times slower.
    Raises `ExportError` when there is no matrix product with constant weights.
    """
    return _written(model, dynamic=True)


def _written(model: onnx.ModelProto, *, dynamic: bool) -> onnx.ModelProto:
    writer = _Writer(onnx.ModelProto.FromString(model.SerializeToString()))
    products = False
    for index, node in enumerate(list(writer.model.graph.node)):
        node.name = node.name or f"{node.op_type}_{index}"
        if not _has_weights(node, writer.constants):
            writer.nodes.append(node)
        elif dynamic and node.op_type in _PRODUCTS and _is_plain(node):
            writer.multiply_integers(node)
            products = True
        else:
            writer.dequantize_weights(node)
    if dynamic and not products:
        raise ExportError(
            "no matrix product with constant weights: nothing else is faster for being quantised at run time",
            fix="choose w8 instead of dynamic",
        )
    if not writer.written:
        raise ExportError("this network has no layers with weights", fix="choose fp32")
    return writer.finished()


def _has_weights(node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.float32]]) -> bool:
    if node.op_type not in _WEIGHTED or node.input[1] not in constants:
        return False
    return node.op_type == "Conv" or constants[node.input[1]].ndim == 2


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product is ``input @ weights (transposed or not) + bias`` and no more."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    scaled = any(name in attributes and attributes[name].f != 1.0 for name in ("alpha", "beta"))
    return not scaled and not ("transA" in attributes and attributes["transA"].i)


@dataclass(frozen=True)
class _Written:
    """An int8 weight's initialiser, and its float32 scales (one per output channel, other axes of length 1)."""

    levels: str
    scales: npt.NDArray[np.float32]


class _Writer:
    """Builds the new list of nodes; a weight, or an input, that several operators read is rounded once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT
        }
        self.written: dict[tuple[str, int, bool, int], _Written] = {}
        self._dequantized: dict[tuple[str, int], str] = {}
        self._rounded: set[str] = set()

    def dequantize_weights(self, node: onnx.NodeProto) -> None:
        """`node` with int8 weights that a Cast and a Mul make float32."""
        name, axis = node.input[1], _output_axis(node)
        if (name, axis) not in self._dequantized:
            weights = self._store(name, axis, transposed=False)
            prefix = f"{name}_{axis}"
            scale = self._add(f"{prefix}_scale", weights.scales)
            self.nodes += [
                helper.make_node(
                    "Cast", [weights.levels], [f"{prefix}_cast"], f"{prefix}_cast", to=onnx.TensorProto.FLOAT
                ),
                helper.make_node("Mul", [f"{prefix}_cast", scale], [f"{prefix}_dequantized"], f"{prefix}_dequantize"),
            ]
            self._dequantized[name, axis] = f"{prefix}_dequantized"
        node.input[1] = self._dequantized[name, axis]
        self.nodes.append(node)

    def multiply_integers(self, node: onnx.NodeProto) -> None:
        """``MatMulInteger(round(input), weights) * scales + bias`` in place of `node`."""
        source, name, result = node.input[0], node.input[1], node.output[0]
        levels, scale, zero = (f"{source}_{part}" for part in ("levels", "scale", "zero_point"))
        if source not in self._rounded:
            self._rounded.add(source)
            made = [levels, scale, zero]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], made, f"{source}_quantize"))
        axis = _output_axis(node)
        # Where pairs of products are added in 16 bits, seven bits fit, whatever comes in.
        most = SAFE_LEVELS if cpu_features().adds_in_16_bits else FULL_LEVELS
        weights = self._store(name, axis, transposed=axis == 0, most=most)
        scales = self._add(f"{result}_weight_scales", weights.scales.reshape(-1))
        bias = node.input[2] if len(node.input) > 2 else ""
        product = f"{result}_product" if bias else result
        steps: list[tuple[str, list[str], str]] = [
            ("MatMulInteger", [levels, weights.levels, zero], f"{result}_sums"),
            ("Mul", [scale, scales], f"{result}_scales"),
            ("Cast", [f"{result}_sums"], f"{result}_cast"),
            ("Mul", [f"{result}_cast", f"{result}_scales"], product),
        ]
        if bias:
            steps.append(("Add", [product, bias], result))
        for kind, inputs, output in steps:
            attributes: dict[str, Any] = {"to": onnx.TensorProto.FLOAT} if kind == "Cast" else {}
            self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}_{kind.lower()}", **attributes))

    def _store(self, name: str, axis: int, *, transposed: bool, most: int = FULL_LEVELS) -> _Written:
        """The weight as an int8 initialiser, `transposed` or as it is, with integers up to `most`."""
        key = name, axis, transposed, most
        if key not in self.written:
            weights = self.constants[name]
            others = tuple(other for other in range(weights.ndim) if other != axis)
            # A channel that training has switched off has a scale all the same.
            scales = np.maximum(np.abs(weights).max(axis=others, keepdims=True), 1e-12) / most
            integers = weight_integers(weights, scales, axis, most)
            levels = np.ascontiguousarray(integers.T) if transposed else integers
            added = self._add(f"{name}_{axis}_{'columns' if transposed else 'levels'}_{most}", levels)
            self.written[key] = _Written(added, scales.astype(np.float32))
        return self.written[key]

    def _add(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def finished(self) -> onnx.ModelProto:
        """The model with the new nodes, without the initialisers that nobody reads any more."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights that is the output channel."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1
