"""Static int8 from a calibration: no training, no labels, one grid for every activation and scales for every weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from edgetl_export.capture import Captured
from edgetl_export.quantize.calibrate import METHODS, Calibration, node_values
from edgetl_export.quantize.joined import shared_grids
from edgetl_export.quantize.layers import UPSAMPLING, Layer, before_layers, layers, softened
from edgetl_export.quantize.quantization import PIXELS, PROBABILITIES, Grid, Quantization, Quantized, weight_scales
from edgetl_export.quantize.tie_free import tie_free
from edgetl_runtime.errors import ExportError, UsageError, nearest

__all__ = ["FULL_LEVELS", "SAFE_LEVELS", "quantize_static", "revived"]

_GIVES_PROBABILITIES = (
    torch.ops.aten.sigmoid.default,
    torch.ops.aten.sigmoid_.default,
    torch.ops.aten.softmax.int,
)

FULL_LEVELS, SAFE_LEVELS = 127, 63
"""The largest integer weight of 8 bits, and of the 7 bits with which no pair of products outgrows 16 bits."""


_LARGEST_BIAS = 2.0**30
"""Half of what 32 bits hold; ai-edge-quantizer keeps to 31 bits even where biases are stored in 64."""


def quantize_static(
    captured: Captured, calibration: Calibration, *, method: str = METHODS[0], weight_levels: int = FULL_LEVELS
) -> Quantized:
    """Grids from the ranges that `method` finds, weights symmetric per output channel.

    Raises `UsageError` for an unknown method, `ExportError` when a weight is not finite.
    """
    if method not in calibration.ranges:
        raise UsageError(f"unknown way to find ranges {method!r}", fix=nearest(method, METHODS))
    graph_module = captured.batched
    found = layers(graph_module.graph)
    not_rounded = softened(graph_module.graph)
    grids = {name: Grid.over(seen) for name, seen in calibration.ranges[method].items() if name not in not_rounded}
    if captured.takes_pixels:
        grids |= {name: PIXELS for name in before_layers(graph_module.graph) if name in grids}
    grids |= _fixed_grids(graph_module.graph, grids)
    grids |= shared_grids(graph_module.graph, grids)
    _check_finite(captured, found)
    captured = revived(captured, {name: grid.scale for name, grid in grids.items()}, weight_levels)
    weights = {
        layer.weight: tuple(weight_scales(captured.module.get_parameter(layer.weight), weight_levels).tolist())
        for layer in found
    }
    summary = {"n": calibration.n, "fingerprint": calibration.fingerprint, "ranges": method}
    quantization = Quantization(grids, weights, "static", summary, weight_levels)
    return tie_free(Quantized(captured, quantization, calibration.probe, node_values(captured, calibration.probe)))


def _fixed_grids(graph: fx.Graph, grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """Grids that engines dictate: of sigmoids and softmaxes; maxima and what is upsampled have that of their input."""
    fixed: dict[str, Grid] = {}
    for node in graph.nodes:
        if node.target in _GIVES_PROBABILITIES:
            fixed[node.name] = PROBABILITIES
        elif node.target is torch.ops.aten.max_pool2d.default or node.target in UPSAMPLING:
            source = node.args[0].name
            grid = fixed.get(source, grids.get(source))
            if grid is not None:  # an image that is resized before the first layer has none
                fixed[node.name] = grid
    return fixed


def _check_finite(captured: Captured, found: list[Layer]) -> None:
    for layer in found:
        for name in (layer.weight, layer.bias):
            if name is not None and not torch.isfinite(captured.module.get_parameter(name)).all():
                raise ExportError(
                    f"a weight of {layer.name} is not finite",
                    fix="check the checkpoint: it was damaged or its training failed",
                )


def revived(captured: Captured, steps: Mapping[str, float], weight_levels: int) -> Captured:
    """The network with one tiny weight in each dead channel; `steps` has the step of every layer's input by its node.

    A bias is an integer in steps of input scale times weight scale. Where all weights of a channel are zero, training
    having switched it off, that step would be zero and the bias lost. With 8-bit inputs the tiny weight changes the
    output by less than a ten thousandth of the bias, with 16-bit inputs by at most half a percent.
    """
    changed: dict[str, torch.Tensor] = {}
    for layer in layers(captured.batched.graph):
        if layer.bias is None:
            continue
        weight, bias = captured.module.get_parameter(layer.weight), captured.module.get_parameter(layer.bias)
        least = bias.abs() * weight_levels / (steps[layer.input] * _LARGEST_BIAS)
        flat = weight.reshape(len(weight), -1)
        dead = flat.abs().amax(1) < least
        if dead.any():
            flat = flat.clone()
            flat[dead, 0] = least[dead]
            changed[layer.weight] = flat.reshape(weight.shape)
    return captured.with_parameters(changed)
