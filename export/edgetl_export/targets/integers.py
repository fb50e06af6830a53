"""A float TFLite model with a quantised model's grids written in, by ai-edge-quantizer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.quantization import PIXELS, Grid, Quantized
from edgetl_export.targets import flatbuffer

__all__ = ["quantize_tflite"]

_FIXED = {"LOGISTIC": Grid(1 / 256, 0), "SOFTMAX": Grid(1 / 256, 0)}
"""Operators whose integer kernels fix the output."""

_MOVES_VALUES = ("PAD", "RESHAPE", "TRANSPOSE")
"""Operators that hand the grid of their input on: every grid has the zero that padding adds."""


def quantize_tflite(model: bytes, quantized: Quantized) -> tuple[bytes, dict[str, int]]:
    """Activations int8 per tensor, weights int8 symmetric per output channel; counts what stays in float.

    What has no grid, or is not to be rounded, stays in float. A last fully connected layer gives float32 logits.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    graph = _Graph(model, quantized.probe)
    nodes = match_by_value(quantized.values, graph.values)
    grids = graph.grids(quantized.grids(nodes))
    kept = {name for name, node in nodes.items() if node in quantized.quantization.in_float}
    static = quantizer.Quantizer(model)
    static.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        static.update_quantization_recipe(".*", border, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    left: dict[str, int] = {}
    for operator in graph.float_operators(grids, kept, takes_pixels=quantized.captured.takes_pixels):
        left[operator.kind] = left.get(operator.kind, 0) + 1
        static.update_quantization_recipe(
            operator.scope,
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    last = graph.operators[-1]
    if last.kind == "FULLY_CONNECTED" and not kept.intersection(last.outputs):
        static.add_dynamic_config(regex=last.scope, operation_name=qtyping.TFLOperationName.FULLY_CONNECTED, num_bits=8)
    statistics = {
        name: {
            "min": np.full((1,) * graph.values[name].ndim, grid.low, np.float32),
            "max": np.full((1,) * graph.values[name].ndim, grid.high, np.float32),
        }
        for name, grid in grids.items()
        if name in graph.values
    }
    result = bytes(static.quantize(statistics, enable_progress_report=False).quantized_model)
    if quantized.captured.takes_pixels:
        result = _fed_with_pixels(result)
    return result, left


def _fed_with_pixels(content: bytes) -> bytes:
    """Cast to float and quantisation of the image as one step, uint8 to int8: both are grey levels."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.opened(content)
    graph = model.subgraphs[0]
    codes = [code.builtinCode for code in model.operatorCodes]
    image = int(graph.inputs[0])
    cast = next(
        operator
        for operator in graph.operators
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.CAST and operator.inputs[0] == image
    )
    readers = [operator for operator in graph.operators if cast.outputs[0] in operator.inputs]
    if len(readers) != 1 or codes[readers[0].opcodeIndex] != schema.BuiltinOperator.QUANTIZE:
        return content
    grid = schema.QuantizationParametersT()
    grid.scale, grid.zeroPoint = np.array([PIXELS.scale], np.float32), np.array([PIXELS.zero_point], np.int64)
    graph.tensors[image].quantization = grid
    readers[0].inputs = np.array([image], np.int32)
    graph.operators.remove(cast)
    return flatbuffer.packed(model)


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
    """The float model's operators and the values of its activations for one image."""

    def __init__(self, model: bytes, probe: npt.NDArray[np.uint8]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=model,
            # Without the delegate, which hides the tensors inside what it fuses.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        image = interpreter.get_input_details()[0]
        interpreter.set_tensor(image["index"], probe)
        interpreter.invoke()
        self.image: str = image["name"]
        details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
        self.operators = [
            _Operator(
                operator["op_name"],
                tuple(details[index]["name"] for index in operator["inputs"] if index >= 0),
                tuple(details[index]["name"] for index in operator["outputs"]),
            )
            for operator in interpreter._get_ops_details()
        ]
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
            elif operator.kind in _MOVES_VALUES and operator.inputs[0] in grids:
                grids.setdefault(output, grids[operator.inputs[0]])
        return grids

    def float_operators(self, grids: dict[str, Grid], kept: set[str], *, takes_pixels: bool) -> list[_Operator]:
        """The operators that stay in float: what normalises the image, what has no grid, and those in `kept`."""
        reached = {self.image}
        found: list[_Operator] = []
        for operator in self.operators:
            prepares = operator.kind in ("CAST", "MUL", "ADD") and any(name in reached for name in operator.inputs)
            if prepares and not (takes_pixels and operator.kind != "CAST"):
                reached.update(operator.outputs)
            else:
                prepares = False
            activations = [name for name in (*operator.inputs, *operator.outputs) if name in self.values]
            if prepares or kept.intersection(operator.outputs) or any(name not in grids for name in activations):
                found.append(operator)
        return found
