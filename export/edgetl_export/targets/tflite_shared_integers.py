"""A TFLite file's integers and scales, as ai-edge-quantizer found them, replaced by those that all targets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_export.quantize.quantization import Grid, Quantized, bias_integers
from edgetl_export.targets import tflite_flatbuffer

__all__ = ["with_shared_integers"]

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

_LAST_BITS = 1e-5
"""By which ai-edge-quantizer's scales differ, relatively: it derives them from the ends of a range. What differs by
more has another grid for a reason."""


def with_shared_integers(content: bytes, floats: bytes, quantized: Quantized, grids: Mapping[str, Grid]) -> bytes:
    """The int8 model in `content` with the `grids` of its tensors to the last bit, and weights and biases as
    `quantized` has them; `floats` is the model it was made from."""
    model, original = tflite_flatbuffer.opened(content), tflite_flatbuffer.opened(floats)
    constants = {tensor.name: _floats(original, tensor) for tensor in original.subgraphs[0].tensors}
    tensors = model.subgraphs[0].tensors
    shared: dict[float | None, float] = {}
    for tensor in tensors:
        grid, scale = grids.get(tensor.name.decode()), _scale(tensor)
        if grid is not None and scale is not None and abs(scale / grid.scale - 1) < _LAST_BITS:
            shared[scale] = grid.scale
    for tensor in tensors:
        # Found by the scale that it had: what only moves values has to keep that of its input.
        if _scale(tensor) in shared:
            tensor.quantization.scale = np.array([shared[_scale(tensor)]], np.float32)
    dequantized: dict[int, int] = {}
    for operator in model.subgraphs[0].operators:
        kind = tflite_flatbuffer.kind(model, operator)
        if kind == "DEQUANTIZE":  # the weights of a layer whose sums are float
            dequantized[int(operator.outputs[0])] = int(operator.inputs[0])
        elif kind in _WEIGHTED:
            places = (dequantized.get(int(index), int(index)) for index in (*operator.inputs, -1)[:3])
            source, weights, bias = (tensors[place] if place >= 0 else None for place in places)
            _put_integers(model, source, weights, bias, constants, quantized)
    _drop_idle(model)
    return tflite_flatbuffer.packed(model)


def _drop_idle(model: Any) -> None:
    """Take out what rounds integers to the grid that they have: ai-edge-quantizer puts it before every join."""
    graph = model.subgraphs[0]
    ends = {int(index) for index in graph.outputs}
    same: dict[int, int] = {}
    kept = []
    for operator in graph.operators:
        operator.inputs = np.array([same.get(int(index), int(index)) for index in operator.inputs], np.int32)
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        idle = tflite_flatbuffer.kind(model, operator) == "QUANTIZE" and _alike(
            *(graph.tensors[i] for i in (source, result))
        )
        if idle and result not in ends:
            same[result] = source
        else:
            kept.append(operator)
    graph.operators = kept


def _alike(tensor: Any, other: Any) -> bool:
    """Whether two int8 activations have one grid."""
    scale = _scale(tensor)
    return (
        scale is not None
        and scale == _scale(other)
        and tensor.quantization.zeroPoint[0] == other.quantization.zeroPoint[0]
    )


def _scale(tensor: Any) -> float | None:
    """An int8 activation's scale."""
    from ai_edge_litert import schema_py_generated as schema

    found = tensor.quantization
    if tensor.type != schema.TensorType.INT8 or found is None or found.scale is None or len(found.scale) != 1:
        return None
    return float(found.scale[0])


def _put_integers(
    model: Any,
    source: Any,
    weights: Any,
    bias: Any,
    constants: Mapping[bytes, npt.NDArray[np.float32] | None],
    quantized: Quantized,
) -> None:
    """Weights, and the bias where it is an integer, of one layer whose input is `source`."""
    from ai_edge_litert import schema_py_generated as schema

    values = constants.get(weights.name)
    if weights.type != schema.TensorType.INT8 or values is None:
        return
    integers, scales = quantized.integers(values, int(weights.quantization.quantizedDimension))
    _put(model, weights, integers, scales)
    values = None if bias is None or bias.type != schema.TensorType.INT32 else constants.get(bias.name)
    if values is not None:
        grid = Grid(float(source.quantization.scale[0]), int(source.quantization.zeroPoint[0]) + 128)
        _put(model, bias, *bias_integers(values, grid, scales))


def _put(model: Any, tensor: Any, integers: npt.NDArray[Any], scales: npt.NDArray[np.float32]) -> None:
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(integers).tobytes(), np.uint8)
    tensor.quantization.scale = scales


def _floats(model: Any, tensor: Any) -> npt.NDArray[np.float32] | None:
    """A float32 constant's values; None for every other tensor."""
    from ai_edge_litert import schema_py_generated as schema

    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
