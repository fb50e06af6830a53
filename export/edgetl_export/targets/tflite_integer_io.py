"""int8 in, int8 out and nothing but integers between: a TFLite file for microcontrollers and the Edge TPU.

Those have no float32 kernels, or only slow ones. So what is left of the float borders is taken out, down to the
tensors that nobody reads, and what remains is looked through: one float operator would fail on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgetl_export.quantize.quantization import PIXELS, Grid
from edgetl_export.targets import tflite_flatbuffer
from edgetl_runtime.errors import ExportError

__all__ = ["INTEGER_OPERATORS", "with_integer_borders"]

INTEGER_OPERATORS = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PAD",
        "PADV2",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SLICE",
        "SOFTMAX",
        "SPLIT",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
    }
)
"""Operators with an int8 kernel in TensorFlow Lite Micro (tensorflow/lite/micro/kernels); the Edge TPU's compiler takes
nearly all of them (coral.ai, "TensorFlow models on the Edge TPU")."""


def with_integer_borders(content: bytes, modules: Mapping[str, str]) -> tuple[bytes, Grid]:
    """The int8 model in `content`, which still casts its uint8 image to float32, with an int8 image; its logits' grid.

    `modules` has the original module of tensors by their name. Raises `ExportError` with the operators that cannot
    run on integers and where they stand.
    """
    model = tflite_flatbuffer.opened(content)
    graph = model.subgraphs[0]
    _feed_levels(model, graph)
    tflite_flatbuffer.drop_unused(model)
    _check(model, graph, modules)
    logits = graph.tensors[int(graph.outputs[0])].quantization
    # Levels of a grid count from 0, int8 from -128.
    grid = Grid(float(logits.scale[0]), int(logits.zeroPoint[0]) + 128)
    return tflite_flatbuffer.packed(model), grid


def _feed_levels(model: Any, graph: Any) -> None:
    """The cast to float32 and the QUANTIZE behind it go: the image is int8, each grey level less 128."""
    from ai_edge_litert import schema_py_generated as schema

    image = int(graph.inputs[0])
    for kind in ("CAST", "QUANTIZE"):
        reader = next((operator for operator in graph.operators if image in operator.inputs), None)
        if reader is None or tflite_flatbuffer.kind(model, reader) != kind:
            return
        graph.operators.remove(reader)
        for operator in graph.operators:
            operator.inputs = np.where(operator.inputs == reader.outputs[0], image, operator.inputs).astype(np.int32)
    tensor = graph.tensors[image]
    tensor.type = schema.TensorType.INT8
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.array([PIXELS.scale], np.float32)
    tensor.quantization.zeroPoint = np.array([PIXELS.zero_point - 128], np.int64)


def _check(model: Any, graph: Any, modules: Mapping[str, str]) -> None:
    """`ExportError` when an operator has no integer kernel, reads or gives a float, or the borders are not int8."""
    from ai_edge_litert import schema_py_generated as schema

    integers = (schema.TensorType.INT8, schema.TensorType.INT32, schema.TensorType.INT64)
    found: list[str] = []
    for operator in graph.operators:
        kind = tflite_flatbuffer.kind(model, operator)
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if kind in INTEGER_OPERATORS and all(tensor.type in integers for tensor in tensors):
            continue
        name = graph.tensors[int(operator.outputs[0])].name.decode()
        found.append(f"{kind} of {modules.get(name, name)}")
    for what, index in (("the image", graph.inputs[0]), ("the logits", graph.outputs[0])):
        if graph.tensors[int(index)].type != schema.TensorType.INT8:
            found.append(what)
    if found:
        raise ExportError(
            f"float operators are left in an int8 file with int8 borders: {', '.join(dict.fromkeys(found))}",
            fix="leave --io int8 out, or train a network of convolutions, ReLU and pooling",
        )
