"""A float ONNX graph with a quantised model's grids written in as QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.quantization import Grid, Quantized, bias_integers
from edgetl_export.targets.onnx_choice import MOVING, choose, products
from edgetl_runtime.errors import ExportError

__all__ = ["QdqModel", "quantize_qdq"]

_GIVES_FLOAT = ("Gemm", "MatMul")
"""Matrix products give float32: the logits are not rounded, and another product behind rounds its own input."""

_OUTPUT_CHANNELS = {"Conv": 0, "Gemm": 0, "MatMul": 1}
"""Operators with weights, and the axis of the weights that is the output channel (of a Gemm with transB = 1)."""


@dataclass(frozen=True)
class QdqModel:
    """The model, and how many operators of each kind stay in float."""

    model: onnx.ModelProto
    float_operators: dict[str, int]


def quantize_qdq(model: onnx.ModelProto, quantized: Quantized) -> QdqModel:
    """Activations uint8 per tensor, weights int8 symmetric per output channel, biases int32.

    An operator is quantised when all its activations were found among the calibrated ones and its node is not to stay
    in float. Raises `ExportError` when no operator can be quantised.
    """
    model = _prepared(model)
    nodes = match_by_value(quantized.values, quantized.of_one(_values_on(model, quantized.fed)))
    # The sigmoid inside a SiLU is no node of its own. It reaches one, which TFLite's grid for sigmoids does not.
    inner = [node.output[0] for node in model.graph.node if node.op_type == "Sigmoid" and node.output[0] not in nodes]
    fixed = dict.fromkeys(inner, Grid(1 / 255, 0))
    unfinished = products(model)  # where a bias is zero, they are found to be what the sum gives
    grids = {name: grid for name, grid in quantized.grids(nodes).items() if name not in unfinished}
    writer = _Writer(model, {**grids, **fixed}, quantized, unfinished)
    if quantized.captured.takes_pixels:
        writer.feed_pixels()
    kept = {name for name, node in nodes.items() if node in quantized.quantization.in_float}
    kept |= _decoded(model, quantized.captured.source.outputs) if quantized.captured.source.decodings else set()
    inside = {*fixed, *unfinished}
    kept |= {
        name for node in model.graph.node if kept.intersection(node.output) for name in inside if name in node.input
    }
    chosen, left = choose(model, writer.grids, kept, unfinished, writer.on_pixels)
    if not chosen:
        raise ExportError("no operator of this network could be quantised", fix="leave int8 out of --precisions")
    chosen = writer.clip_by_rounding(chosen)
    writer.quantize(chosen)
    return QdqModel(writer.finished(), left)


def _decoded(model: onnx.ModelProto, outputs: Sequence[str]) -> set[str]:
    """What is computed of the raw outputs: it stays in float, as what they hold."""
    found = set(outputs)
    for node in model.graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found.difference(outputs)


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with shapes inferred, node names, and average pooling in its integer-friendly form."""
    copied = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for index, node in enumerate(copied.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _pool_globally(copied)
    return copied


def _pool_globally(model: onnx.ModelProto) -> None:
    """ReduceMean over height and width becomes GlobalAveragePool, which engines run on integers."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2:
            continue
        axes = constants.get(node.input[1])
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        if axes is not None and keeps and sorted(int(axis) for axis in axes) in ([-2, -1], [2, 3]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _values_on(model: onnx.ModelProto, probe: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Every float activation of the graph for these images, computed without any fusion."""
    probe_model = onnx.ModelProto.FromString(model.SerializeToString())
    made = {output for node in probe_model.graph.node for output in node.output}
    listed = {output.name for output in probe_model.graph.output}
    for value in probe_model.graph.value_info:
        is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        if is_float and value.name in made and value.name not in listed:
            probe_model.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe_model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: probe}), strict=True))


@dataclass
class _Writer:
    """Puts pairs into a graph; every tensor and every weight is rounded once, whoever reads it."""

    model: onnx.ModelProto
    grids: dict[str, Grid]
    quantized: Quantized
    products: set[str]
    before: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    behind: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    on_pixels: set[str] = field(default_factory=set)
    weight_scales: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.outputs = {tensor.name for tensor in self.model.graph.output}

    def feed_pixels(self) -> None:
        """Hand the uint8 image to the first layer without a detour through float32.

        The cast at the front becomes a DequantizeLinear (scale 1, zero point 0) right before the layer; borders and
        transposes between them work on uint8. What asks for the number of images reads the image itself.
        """
        nodes = self.model.graph.node
        image = self.model.graph.input[0].name
        readers = [node for node in nodes if image in node.input and node.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type != "Cast":
            return
        cast = readers[0]
        tensor, replacement = cast.output[0], cast.input[0]
        nodes.remove(cast)
        while True:
            readers = [node for node in nodes if tensor in node.input]
            if len(readers) != 1 or readers[0].op_type not in ("Concat", "Transpose"):
                break
            reader = readers[0]
            for place, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[place] = replacement
                elif name in self.constants:
                    reader.input[place] = self._as_pixels(name)
                elif (repeated := self._repeated(name)) is not None:
                    repeated.input[0] = self._as_pixels(repeated.input[0])
            self.on_pixels.add(reader.name)
            tensor, replacement = reader.output[0], f"{reader.output[0]}_pixels"
            reader.output[0] = replacement
        parameters = self._parameters(tensor, np.float32(1), np.uint8(0))
        node = helper.make_node("DequantizeLinear", [replacement, *parameters], [tensor], f"{tensor}_dequantize")
        self.behind[replacement] = [node]
        self.rounded[tensor] = tensor

    def _as_pixels(self, name: str) -> str:
        """A constant in grey levels as uint8."""
        self._add(f"{name}_pixels", self.constants[name].astype(np.uint8))
        return f"{name}_pixels"

    def _repeated(self, name: str) -> onnx.NodeProto | None:
        """What repeats a constant for each image, where that makes `name` and nothing else reads it."""
        makers = [node for node in self.model.graph.node if name in node.output]
        readers = [node for node in self.model.graph.node if name in node.input]
        plain = len(makers) == len(readers) == 1 and makers[0].op_type == "Expand"
        return makers[0] if plain and makers[0].input[0] in self.constants else None

    def clip_by_rounding(self, chosen: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """`chosen` without the activations that a grid does on its own: it ends at zero, and at the upper limit."""
        makers = {name: node for node in chosen for name in node.output}
        kept = []
        for node in chosen:
            maker = makers.get(node.input[0])
            readers = [other for other in self.model.graph.node if node.input[0] in other.input]
            if maker is None or len(readers) > 1 or not self._clips_alike(node):
                kept.append(node)
                continue
            maker.output[0] = node.output[0]
            self.model.graph.node.remove(node)
        return kept

    def _clips_alike(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Relu":
            return self.grids[node.output[0]].clips_like(0.0, math.inf)
        if node.op_type != "Clip" or any(name not in self.constants for name in node.input[1:]):
            return False
        low, high = (float(self.constants[name]) for name in node.input[1:])
        return self.grids[node.output[0]].clips_like(low, high)

    def quantize(self, chosen: list[onnx.NodeProto]) -> None:
        """Write the pairs around the `chosen` operators."""
        in_integers = {node.name for node in chosen}
        in_float = {
            node.name for node in chosen if node.op_type in _GIVES_FLOAT or self.products.intersection(node.input)
        }
        for node in chosen:
            if node.name not in in_float:
                for name in node.output:
                    if name not in self.outputs:
                        self._round(name)
                    elif node.op_type in MOVING:
                        self._round_output(node)
            self._round_inputs(node)
        made = {name for node in chosen if node.name not in in_float for name in node.output}
        for node in self.model.graph.node:
            for place, name in enumerate(node.input):
                if name in self.rounded and (node.name in in_integers or name in made):
                    node.input[place] = self.rounded[name]

    def _round_inputs(self, node: onnx.NodeProto) -> None:
        axis = _OUTPUT_CHANNELS.get(node.op_type)
        for name in node.input:
            if name not in self.constants and name in self.grids:
                self._round(name)
        if axis is None or node.input[1] not in self.constants:
            return
        weight, source = node.input[1], self.grids[node.input[0]]
        if weight not in self.weight_scales:
            rows_first = node.op_type != "Gemm" or any(item.name == "transB" and item.i for item in node.attribute)
            self._round_weight(weight, axis if rows_first else 1)
        node.input[1] = f"{weight}_rounded"
        scales = self.weight_scales[weight]
        if len(node.input) > 2 and node.input[2] in self.constants:
            node.input[2] = self._round_bias(node.input[2], node, source, scales)
        for behind in self.model.graph.node if node.output[0] in self.products else ():
            if node.output[0] in behind.input:
                # Rounded as the bias of one node is: ONNX Runtime makes one integer product of the two then.
                place = int(behind.input[0] == node.output[0])
                behind.input[place] = self._round_bias(behind.input[place], node, source, scales)

    def _round(self, name: str) -> None:
        """A pair behind the tensor `name`, once."""
        if name in self.rounded:
            return
        grid = self.grids[name]
        parameters = self._parameters(name, np.float32(grid.scale), np.uint8(grid.zero_point))
        self.behind[name] = [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_levels"], f"{name}_quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_levels", *parameters], [f"{name}_rounded"], f"{name}_dequantize"
            ),
        ]
        self.rounded[name] = f"{name}_rounded"

    def _round_output(self, node: onnx.NodeProto) -> None:
        """A pair between `node` and the output that it gives."""
        name, grid = node.output[0], self.grids[node.output[0]]
        parameters = self._parameters(name, np.float32(grid.scale), np.uint8(grid.zero_point))
        moved = f"{name}_moved"
        node.output[0] = moved
        self.behind[moved] = [
            helper.make_node("QuantizeLinear", [moved, *parameters], [f"{name}_levels"], f"{name}_quantize"),
            helper.make_node("DequantizeLinear", [f"{name}_levels", *parameters], [name], f"{name}_dequantize"),
        ]

    def _round_weight(self, name: str, axis: int) -> None:
        integers, scales = self.quantized.integers(self.constants[name], axis)
        self._add(f"{name}_levels", integers)
        parameters = self._parameters(name, scales, np.zeros(len(scales), np.int8))
        node = helper.make_node(
            "DequantizeLinear", [f"{name}_levels", *parameters], [f"{name}_rounded"], f"{name}_dequantize", axis=axis
        )
        self.before[name] = [node]
        self.weight_scales[name] = scales

    def _round_bias(self, bias: str, node: onnx.NodeProto, source: Grid, weight_scales: npt.NDArray[np.float32]) -> str:
        # Two layers may share one, each with steps of its own.
        name = bias if bias not in self.before else f"{bias}_{node.name}"
        integers, scales = bias_integers(self.constants[bias], source, weight_scales)
        self._add(f"{name}_levels", integers)
        self._add(f"{name}_scale", scales)
        rounding = helper.make_node(
            "DequantizeLinear", [f"{name}_levels", f"{name}_scale"], [f"{name}_rounded"], f"{name}_dequantize", axis=0
        )
        self.before[name] = [rounding]
        return f"{name}_rounded"

    def _parameters(self, name: str, scale: npt.ArrayLike, zero_point: npt.ArrayLike) -> list[str]:
        self._add(f"{name}_scale", np.asarray(scale))
        self._add(f"{name}_zero_point", np.asarray(zero_point))
        return [f"{name}_scale", f"{name}_zero_point"]

    def _add(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))

    def finished(self) -> onnx.ModelProto:
        """The graph with the pairs in place, in running order, without what nobody reads any more."""
        nodes = [node for group in self.before.values() for node in group]
        for tensor in self.model.graph.input:
            nodes += self.behind.get(tensor.name, [])
        for node in self.model.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, [])
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in read]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        del self.model.graph.value_info[:]
        return self.model
