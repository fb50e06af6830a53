"""A float TFLite model with a quantised model's grids written in, by ai-edge-quantizer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_export.quantize.layers import module_of
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.quantization import PROBABILITIES, Grid, Quantized
from edgetl_export.targets import tflite_flatbuffer
from edgetl_export.targets.int16_activations import HEADROOM
from edgetl_export.targets.tflite_integer_io import with_integer_borders
from edgetl_export.targets.tflite_last_layer import with_integer_products
from edgetl_export.targets.tflite_shared_integers import with_shared_integers

__all__ = ["IntegerModel", "quantize_tflite"]

_FIXED = {"LOGISTIC": PROBABILITIES, "SOFTMAX": PROBABILITIES}
"""Operators whose integer kernels fix the output."""

_MOVES_VALUES = ("PAD", "RESHAPE", "TRANSPOSE")
"""Operators that hand the grid of their input on: every grid has the zero that padding adds."""

_MOVING = ("CONCATENATION", "RESHAPE", "TRANSPOSE")
"""Operators that an output is put together with."""

_FASTER_IN_FLOAT = ("HARD_SWISH",)
"""Operators without an integer kernel in XNNPACK. TFLite's own is slow, and what stands around it is cut into pieces:
MobileNetV3-Small at 96 px took 0.56 ms, twice as long as fp32 (0.26), and takes 0.12 with these in float."""


@dataclass(frozen=True)
class IntegerModel:
    """The file, a count by operator of what stays in float, and the logits' grid when the file gives int8."""

    content: bytes
    float_operators: dict[str, int]
    logits: Grid | None = None


def quantize_tflite(
    model: bytes, quantized: Quantized, *, activation_bits: int = 8, integer_borders: bool = False
) -> IntegerModel:
    """Activations int8 per tensor, weights int8 symmetric per output channel; counts what stays in float.

    What has no grid, or is not to be rounded, stays in float. A last fully connected layer gives float32 logits.
    With 16 ``activation_bits`` activations are int16, symmetric around zero. With ``integer_borders`` int8 goes in and
    comes out: grey levels less 128, and the logits on their grid; `ExportError` then names what cannot be an integer.
    """
    graph = _Graph(model, quantized.fed)
    nodes = match_by_value(quantized.values, quantized.of_one(graph.values))
    grids = graph.grids(quantized.grids(nodes))
    kept = {name for name, node in nodes.items() if node in quantized.quantization.in_float}
    kept |= graph.decoded(len(quantized.captured.source.outputs)) if quantized.captured.source.decodings else set()
    kept |= graph.results(() if integer_borders or activation_bits > 8 else _FASTER_IN_FLOAT)
    operators = graph.float_operators(grids, kept, takes_pixels=quantized.captured.takes_pixels)
    static = _recipe(model, graph, operators, kept, activation_bits=activation_bits, integer_borders=integer_borders)
    wide = HEADROOM if activation_bits > 8 else 1.0
    ranges = {
        name: (grid.low * wide, grid.high * wide) if name in nodes else (grid.low, grid.high)
        for name, grid in grids.items()
        if name in graph.values
    }
    statistics = {
        name: {
            "min": np.full((1,) * graph.values[name].ndim, low, np.float32),
            "max": np.full((1,) * graph.values[name].ndim, high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }
    result = bytes(static.quantize(statistics, enable_progress_report=False).quantized_model)
    if activation_bits == 8:
        result = with_shared_integers(result, model, quantized, grids)
    left = dict(Counter(operator.kind for operator in operators))
    if integer_borders:
        content, logits = with_integer_borders(result, _modules(quantized, nodes))
        return IntegerModel(content, {}, logits)
    return IntegerModel(with_integer_products(result) if activation_bits == 8 else result, left)


def _recipe(
    model: bytes,
    graph: _Graph,
    in_float: list[_Operator],
    kept: set[str],
    *,
    activation_bits: int,
    integer_borders: bool,
) -> Any:
    """ai-edge-quantizer, told what to do with every operator."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    names, nothing = qtyping.TFLOperationName, algorithm_manager.AlgorithmName.NO_QUANTIZE
    static = quantizer.Quantizer(model)
    static.add_static_config(
        regex=".*",
        operation_name=names.ALL_SUPPORTED,
        activation_num_bits=activation_bits,
        weight_num_bits=8,
    )
    static.update_quantization_recipe(".*", names.INPUT, algorithm_key=nothing)
    if not integer_borders:
        static.update_quantization_recipe(".*", names.OUTPUT, algorithm_key=nothing)
    for operator in in_float:
        static.update_quantization_recipe(operator.scope, names.ALL_SUPPORTED, algorithm_key=nothing)
    last = next(operator for operator in graph.operators if graph.logits in operator.outputs)
    float_logits = activation_bits == 8 and not integer_borders
    if float_logits and last.kind == "FULLY_CONNECTED" and not kept.intersection(last.outputs):
        # Not dynamic: tflite-runtime 2.14 passes over the scales per channel there, and gives nonsense. What
        # `with_integer_products` makes of it runs there too.
        static.add_weight_only_config(regex=last.scope, operation_name=names.FULLY_CONNECTED, num_bits=8)
    return static


def _modules(quantized: Quantized, nodes: Mapping[str, str]) -> dict[str, str]:
    """The original module of every tensor whose captured node is known."""
    paths = {node.name: module_of(node) for node in quantized.captured.single.program.graph.nodes}
    return {tensor: paths[node] for tensor, node in nodes.items()}


@dataclass(frozen=True)
class _Operator:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def scope(self) -> str:
        """What ai-edge-quantizer's recipes call it, as a regular expression."""
        return f"^{re.escape(';'.join(self.outputs) + ';')}$"


class _Graph:
    """The float model's operators and the values of its activations for some images."""

    def __init__(self, model: bytes, images: npt.NDArray[np.uint8]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=model,
            # Without the delegate, which hides the tensors inside what it fuses.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        image = interpreter.get_input_details()[0]
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        self.image: str = image["name"]
        self.ends: list[str] = [output["name"] for output in interpreter.get_output_details()]
        self.logits = self.ends[0]
        details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
        self.operators = [
            _Operator(
                operator["op_name"],
                tuple(details[index]["name"] for index in operator["inputs"] if index >= 0),
                tuple(details[index]["name"] for index in operator["outputs"]),
            )
            for operator in interpreter._get_ops_details()
        ]
        self._up_to_6 = tflite_flatbuffer.results_with_relu6(model)
        made = {name for operator in self.operators for name in operator.outputs}
        self.values: dict[str, npt.NDArray[np.float32]] = {
            tensor["name"]: interpreter.get_tensor(index)
            for index, tensor in details.items()
            if tensor["name"] in made and tensor["dtype"] is np.float32
        }

    def grids(self, found: dict[str, Grid]) -> dict[str, Grid]:
        """The grid of every activation that has one, given those that were found by value."""
        grids = dict(found)
        for operator in self.operators:
            output = operator.outputs[0]
            if operator.kind in _FIXED:
                grids[output] = _FIXED[operator.kind]
            elif output in self._up_to_6:
                # A hardsigmoid is such an output and a product: the original has nothing with its values.
                grids.setdefault(output, Grid(6 / 255, 0))
            elif operator.kind in _MOVES_VALUES and operator.inputs[0] in grids:
                grids.setdefault(output, grids[operator.inputs[0]])
        return grids

    def results(self, kinds: Sequence[str]) -> set[str]:
        """What operators of these `kinds` give."""
        return {name for operator in self.operators if operator.kind in kinds for name in operator.outputs}

    def decoded(self, outputs: int) -> set[str]:
        """What is computed of the raw outputs, which are the first: it stays in float, as what they hold."""
        raw = set(self.ends[:outputs])
        found = set(raw)
        for operator in self.operators:
            if not found.isdisjoint(operator.inputs):
                found.update(operator.outputs)
        return found - raw

    def float_operators(self, grids: dict[str, Grid], kept: set[str], *, takes_pixels: bool) -> list[_Operator]:
        """The operators that stay in float: what normalises the image, what has no grid, and those in `kept`."""
        reached = {self.image}
        tails, given = self._tails(), set[str]()
        found: list[_Operator] = []
        for operator in self.operators:
            prepares = operator.kind in ("CAST", "MUL", "ADD") and any(name in reached for name in operator.inputs)
            if prepares and not (takes_pixels and operator.kind != "CAST"):
                reached.update(operator.outputs)
            else:
                prepares = False
            activations = [name for name in (*operator.inputs, *operator.outputs) if name in self.values]
            # Behind a layer that stays in float, what is given out stays so too: nothing is rounded on its way.
            behind_float = operator in tails and not given.isdisjoint(operator.inputs)
            if (
                prepares
                or behind_float
                or kept.intersection(operator.outputs)
                or any(name not in grids for name in activations)
            ):
                found.append(operator)
                given.update(operator.outputs)
        return found

    def _tails(self) -> list[_Operator]:
        """The operators that move or join what is given out, back to what makes it."""
        makers = {name: operator for operator in self.operators for name in operator.outputs}
        waiting, found = list(self.ends), list[_Operator]()
        while waiting:
            operator = makers.get(waiting.pop())
            if operator is not None and operator.kind in _MOVING and operator not in found:
                found.append(operator)
                waiting += operator.inputs
        return found
