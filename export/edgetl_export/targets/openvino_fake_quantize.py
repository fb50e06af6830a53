"""A float OpenVINO model as int8, in place: the shared grids as FakeQuantize, the shared integers as weights.

OpenVINO fuses what follows a convolution into it, SiLU included, when nothing stands between them. So only the inputs
of convolutions and matrix products are quantised, where ONNX Runtime wants pairs around every operator: the same
scales, placed as this engine likes them. A network of nothing but integer sums (no sigmoid, no SiLU) is rounded where
the others round it: that is as fast, and all engines come to the same integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13

from edgetl_export.quantize.layers import exact, layers, rounded
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.quantization import Grid, Quantized, bias_integers
from edgetl_export.quantize.ranges import Range
from edgetl_export.targets.openvino_compress import put_integers, weight_rows, weighted_operators
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.errors import ExportError

__all__ = ["quantize_in_place"]

_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_ACTIVATIONS = ("Clamp", "Relu")
_COMPUTING = (*_LAYERS, *_ACTIVATIONS, "Add", "Concat", "MaxPool", "ReduceMean")
"""Operators whose outputs the other engines round, when an activation is not fused behind them."""

_FINAL = ("FakeQuantize", "Result")
"""Readers that stay with what is not rounded: rounding itself, and a feature that is given out by its tensor's name."""


def quantize_in_place(model: openvino.Model, quantized: Quantized) -> dict[str, int]:
    """Activations uint8 per tensor, weights int8 symmetric per output channel; counts what stays in float.

    An operator is quantised when its input was found among the calibrated activations and its node is not to stay in
    float. Raises `ExportError` when no operator can be quantised.
    """
    weighted = weighted_operators(model)
    sources = [node.input_value(0) for node in weighted]
    given = _given(model) if exact(quantized.captured.batched.graph) else []
    nodes = _nodes_of(model, [*sources, *given], quantized)
    grids = quantized.quantization.activations
    constants = _Constants()
    on_grid: dict[tuple[str, int], Any] = {}
    left: dict[str, int] = {}
    in_float = _inputs_in_float(quantized)
    of_the_image = _of_the_image(model)
    for node, source in zip(weighted, sources, strict=True):
        found = nodes.get(_key(source))
        if found is None or found in in_float or node.get_friendly_name() not in of_the_image:
            left[node.get_type_name()] = left.get(node.get_type_name(), 0) + 1
            continue
        if _key(source) not in on_grid:
            on_grid[_key(source)] = constants.on_grid(source, grids[found])
        node.input(0).replace_source_output(on_grid[_key(source)].output(0))
        integers, scales = quantized.integers(weight_rows(node), 0)
        put_integers(node, integers, scales)
        _round_bias(node, grids[found], scales)
    if not on_grid:
        raise ExportError("no operator of this network could be quantised", fix="leave int8 out of --precisions")
    raw = model.outputs[: len(quantized.captured.source.outputs)] if quantized.captured.source.decodings else []
    _round_for_all(given, on_grid, nodes, quantized, constants, _readers_of_outputs(raw))
    _clip_by_rounding(model)
    if quantized.captured.takes_pixels:
        _feed_pixels(model)
    model.validate_nodes_and_infer_types()
    return left


def _of_the_image(model: openvino.Model) -> set[str]:
    """Names of the operators that the image has a part in; the others are computed once, when the model is loaded, and
    OpenVINO cannot do that with rounded weights."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        before = {value.get_node().get_friendly_name() for value in node.input_values()}
        if node.get_type_name() == "Parameter" or not found.isdisjoint(before):
            found.add(node.get_friendly_name())
    return found


def _given(model: openvino.Model) -> list[Any]:
    """The outputs of operators that compute, behind their bias and the activation that is fused into them."""
    computing = [node for node in model.get_ordered_ops() if node.get_type_name() in _COMPUTING]
    return [node.output(0) for node in computing if _bias_of(node) is None and not _read_by(node, *_ACTIVATIONS)]


def _round_for_all(
    given: list[Any],
    on_grid: dict[tuple[str, int], Any],
    nodes: dict[tuple[str, int], str],
    quantized: Quantized,
    constants: _Constants,
    decoding: set[str],
) -> None:
    """Every reader of what is `given` reads it rounded, not only the layers that do already; not those of `decoding`,
    which read what is given out."""
    inside = set(rounded(quantized.captured.batched.graph)) - set(quantized.quantization.in_float)
    for output in given:
        name = nodes.get(_key(output))
        if name not in inside:
            continue
        grid = quantized.quantization.activations[name]
        readers = [
            reader
            for reader in output.get_target_inputs()
            if reader.get_node().get_type_name() not in _FINAL and reader.get_node().get_friendly_name() not in decoding
        ]
        levels = on_grid.get(_key(output))
        if levels is None:
            kept = constants.rounded_behind(output) if _read_by(output.get_node(), "Add") else output
            levels = constants.on_grid(kept, grid)
        for reader in readers:
            reader.replace_source_output(levels.output(0))


def _readers_of_outputs(outputs: Sequence[Any]) -> set[str]:
    """Names of the operators that read one of `outputs` of a model, too."""
    made = [output.get_node().input_value(0) for output in outputs]
    return {reader.get_node().get_friendly_name() for output in made for reader in output.get_target_inputs()}


def _clip_by_rounding(model: openvino.Model) -> None:
    """Take out the activations that rounding does on its own: a grid that ends where they clip."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        activation = node.input_value(0).get_node()
        low, high = (float(node.input_value(place).get_node().get_data()) for place in (1, 2))
        if activation.get_type_name() == "Relu":
            bottom, top = 0.0, math.inf
        elif activation.get_type_name() == "Clamp":
            bottom, top = (float(activation.get_attributes()[name]) for name in ("min", "max"))
        else:
            continue
        grid = Grid.over(Range(low, high))
        if _read_by(activation, "FakeQuantize") and grid.clips_like(bottom, top):
            node.input(0).replace_source_output(activation.input_value(0))


class _Constants:
    """Numbers that many operators read, each in the file once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[float, int], Any] = {}

    def on_grid(self, source: Any, grid: Grid) -> Any:
        """`source` rounded to the 256 levels of `grid`."""
        bottom, top = self._number(grid.low), self._number(grid.high)
        return opset13.fake_quantize(source, bottom, top, bottom, top, levels=256)

    def rounded_behind(self, output: Any) -> Any:
        """`output` as it is, by way of an operator that changes nothing.

        Where the CPU plugin fuses a layer, its rounding, a sum and the sum's rounding, it leaves the first rounding
        out ("drop rounding one special residual pattern" in its DnnlPostOpsComposer), but only when that comes right
        behind the layer. A clamp in between is optimised away; a PReLU of slope 1 stays, and takes no time that can be
        measured.
        """
        return opset13.prelu(output, self._number(1.0, shape=(1,)))

    def _number(self, value: float, *, shape: tuple[int, ...] = ()) -> Any:
        key = float(np.float32(value)), len(shape)
        if key not in self._nodes:
            self._nodes[key] = opset13.constant(np.full(shape, value, np.float32))
        return self._nodes[key]


def _bias_of(node: Any) -> Any:
    """The operator that adds a layer's bias, if it has one."""
    if node.get_type_name() not in _LAYERS or not _read_by(node, "Add"):
        return None
    addition = next(iter(node.output(0).get_target_inputs())).get_node()
    constant = any(value.get_node().get_type_name() == "Constant" for value in addition.input_values())
    return addition if constant else None


def _read_by(node: Any, *kinds: str) -> bool:
    """Whether one operator alone reads what `node` gives, and is one of these."""
    readers = list(node.output(0).get_target_inputs())
    return len(readers) == 1 and readers[0].get_node().get_type_name() in kinds


def _feed_pixels(model: openvino.Model) -> None:
    """Borders put on the image while it is uint8, so that the first layer reads integers instead of float32."""
    source: Any = model.inputs[0]
    readers = [target.get_node() for target in source.get_target_inputs()]
    readers = [reader for reader in readers if reader.get_type_name() != "ShapeOf"]  # how many images there are
    if len(readers) != 1 or readers[0].get_type_name() != "Convert":
        return
    output = readers[0].output(0)
    while True:
        readers = [target.get_node() for target in output.get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() != "Concat":
            break
        parts = [source if part == output else _as_pixels(part) for part in readers[0].input_values()]
        source = opset13.concat(parts, readers[0].get_attributes()["axis"]).output(0)
        output = readers[0].output(0)
    levels = opset13.convert(source, "f32")
    for target in list(output.get_target_inputs()):
        target.replace_source_output(levels.output(0))


def _as_pixels(border: Any) -> Any:
    """A border of grey levels as uint8: a constant, or one that is repeated for each image."""
    node = border.get_node()
    if node.get_type_name() == "Broadcast":
        border_of_one, mode = _as_pixels(node.input_value(0)), str(node.get_attributes()["mode"]).upper()
        return opset13.broadcast(border_of_one, node.input_value(1), broadcast_spec=mode).output(0)
    return opset13.constant(node.get_data().astype(np.uint8)).output(0)


def _key(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _nodes_of(model: openvino.Model, outputs: list[Any], quantized: Quantized) -> dict[tuple[str, int], str]:
    """The captured node of every one of `outputs` that has one."""
    probe_model = model.clone()
    named = {node.get_friendly_name(): node for node in probe_model.get_ops()}
    keys = list(dict.fromkeys(_key(output) for output in outputs))
    # What is an output already, as a feature may be, is not added again.
    listed = {_key(output.input_value(0)) for output in probe_model.get_results()}
    probe_model.add_outputs([named[name].output(index) for name, index in keys if (name, index) not in listed])
    places = {_key(output.input_value(0)): place for place, output in enumerate(probe_model.get_results())}
    with kept_signal_stack():
        compiled = openvino.compile_model(probe_model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled([quantized.fed])
    values = {f"{name}:{index}": np.array(result[places[name, index]], np.float32) for name, index in keys}
    matched = match_by_value(quantized.values, quantized.of_one(values))
    return {(name, index): matched[f"{name}:{index}"] for name, index in keys if f"{name}:{index}" in matched}


def _round_bias(node: Any, source: Grid, scales: npt.NDArray[np.float32]) -> None:
    """The bias of a layer in whole steps of its products, as the integers of the other engines."""
    addition = _bias_of(node)
    if addition is None:
        return
    place = int(addition.input_value(1).get_node().get_type_name() == "Constant")
    bias: npt.NDArray[np.float32] = addition.input_value(place).get_node().get_data()
    integers, steps = bias_integers(bias.reshape(-1), source, scales)
    addition.input(place).replace_source_output(
        opset13.constant((integers * steps).astype(np.float32).reshape(bias.shape)).output(0)
    )


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
