"""Layers as integer engines multiply them, and which of their products are added in pairs of 16 bits.

On x86 processors without VNNI uint8 activations meet int8 weights in ``vpmaddubsw`` (Intel 64 and IA-32 manual, volume
2, PMADDUBSW): the products of two neighbours are added and clipped to -32768 to 32767 before they reach the 32-bit
accumulator. Which products are neighbours is up to how a library packs its weights. For oneDNN what is said here
was compared with its kernels without VNNI; for MLAS it was read off its source.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from edgetl_export.quantize.layers import Layer, layers
from edgetl_export.quantize.quantization import Grid, Quantization, Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_runtime.errors import ExportError

__all__ = ["GREATEST", "MLAS", "ONEDNN", "IntegerLayer", "Packing", "grid_before", "integer_layers", "pairs_of"]

_aten = torch.ops.aten
_LEAST, GREATEST = -(2**15), 2**15 - 1
"""What a pair's sum is clipped to."""

_LAYOUT = frozenset(
    {
        _aten.permute.default,
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.transpose.int,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.dropout.default,
        _aten.dropout_.default,
        _aten.clone.default,
        _aten.contiguous.default,
    }
)
"""Operators that pass levels on."""

_REACH: dict[Any, tuple[float, float]] = {
    _aten.relu.default: (0.0, math.inf),
    _aten.relu_.default: (0.0, math.inf),
    _aten.relu6.default: (0.0, 6.0),
    _aten.sigmoid.default: (0.0, 1.0),
    _aten.sigmoid_.default: (0.0, 1.0),
    _aten.hardsigmoid.default: (0.0, 1.0),
    _aten.hardsigmoid_.default: (0.0, 1.0),
    _aten.softmax.int: (0.0, 1.0),
}
"""Values that come out of an operator, when they may be fewer than its grid has."""

_CLIPS = frozenset({_aten.hardtanh.default, _aten.hardtanh_.default})


@dataclass(frozen=True)
class Packing:
    """Which products are added in pairs: the first and second along the reduction axis, the third and fourth, ...

    Products run over the channels of a kernel tap, then over the taps, row by row. ``across_taps``: an odd channel
    count's last product pairs with the next tap's first one; otherwise it stays alone. Depthwise convolutions are
    widened first, and exact.
    """

    across_taps: bool


MLAS = Packing(across_taps=True)
"""ONNX Runtime: images are unfolded with channels last and multiplied by QGEMM, which packs four of the reduction
axis together; qdwconv.cpp widens depthwise products to 32 bits."""

ONEDNN = Packing(across_taps=False)
"""OpenVINO: blocks of four input channels, filled up with zeros; depthwise convolutions use ``vpmaddwd``
(jit_avx512_core_x8s8s32x_conv_kernel.cpp). Its guide "Nuances of int8 computations" names the loss."""


@dataclass(frozen=True)
class IntegerLayer:
    """A layer as engines multiply it: its module's path, and the name of its weights.

    ``integers`` are its weights (outputs, channels, rows, columns). ``worst`` (outputs) is the largest magnitude that
    the sum of a pair can have. Of ``pairs``, ``pairs_at_risk`` may outgrow 16 bits; they belong to ``channels_at_risk``
    output channels.
    """

    name: str
    parameter: str
    integers: torch.Tensor
    worst: torch.Tensor
    pairs: int
    pairs_at_risk: int
    channels_at_risk: int


def integer_layers(quantized: Quantized, packing: Packing) -> list[IntegerLayer]:
    """The layers that engines multiply in integers, in running order."""
    simulation = Simulation(quantized.captured, quantized.quantization)
    nodes = {node.name: node for node in simulation.module.graph.nodes}
    return [
        _integer_layer(quantized, layer, nodes, set(simulation.rounded), packing)
        for layer in layers(simulation.module.graph)
        if layer.node not in quantized.quantization.in_float
    ]


def _integer_layer(
    quantized: Quantized, layer: Layer, nodes: Mapping[str, fx.Node], rounded: set[str], packing: Packing
) -> IntegerLayer:
    quantization = quantized.quantization
    source, grid = grid_before(quantization, layer, nodes, rounded)
    values = quantized.captured.batched.get_parameter(layer.weight).detach()
    scales = torch.tensor(quantization.weights[layer.weight], dtype=torch.float64)
    levels = quantization.weight_levels
    by_output = (-1, *(1,) * (values.ndim - 1))
    weights = torch.round(values.double() / scales.reshape(by_output)).clamp(-levels, levels).to(torch.int32)
    if weights.ndim == 2:
        weights = weights[:, :, None, None]
    greatest, least = _pair_sums(weights, layer.groups, _reachable(source, grid), packing)
    at_risk = (greatest > GREATEST) | (least < _LEAST)
    return IntegerLayer(
        layer.name,
        layer.weight,
        weights,
        worst=torch.maximum(greatest, -least).amax(1),
        pairs=at_risk.numel(),
        pairs_at_risk=int(at_risk.sum()),
        channels_at_risk=int(at_risk.any(1).sum()),
    )


def grid_before(
    quantization: Quantization, layer: Layer, nodes: Mapping[str, fx.Node], rounded: Container[str]
) -> tuple[fx.Node, Grid]:
    """The node whose levels a layer is given, and their grid. Raises `ExportError` when it has none."""
    source = nodes[layer.input]
    while source.name not in rounded and source.target in _LAYOUT:
        source = source.all_input_nodes[0]
    grid = quantization.activations.get(source.name)
    if grid is None:
        raise ExportError(f"the input of {layer.name} has no range", fix="calibrate the network that is quantised")
    return source, grid


def _pair_sums(
    weights: torch.Tensor, groups: int, reach: tuple[int, int], packing: Packing
) -> tuple[torch.Tensor, torch.Tensor]:
    """The greatest and the least sum of every pair (outputs, pairs), when levels are within `reach`.

    `weights` are int32 (outputs, channels, rows, columns), also of a matrix.
    """
    # Of a depthwise layer one product each is in a lane of its own: every weight is paired with nothing.
    pairs = pairs_of(weights, packing, alone=weights.shape[1] == 1 and groups == len(weights) > 1)
    ends = torch.stack([pairs * reach[0], pairs * reach[1]])
    return ends.amax(0).sum(-1), ends.amin(0).sum(-1)


def pairs_of(values: torch.Tensor, packing: Packing, *, alone: bool = False) -> torch.Tensor:
    """Weights or levels (n, channels, rows, columns) as they are added: (n, pairs, 2); `alone` each with nothing."""
    n, channels, rows, columns = values.shape
    filled = values.permute(0, 2, 3, 1).reshape(n, rows * columns, channels)
    if alone or not packing.across_taps:
        filled = F.pad(filled, (0, channels % 2))
    filled = filled.flatten(1)
    return F.pad(filled, (0, filled.shape[1] % 2)).reshape(n, -1, 2)


def _reachable(source: fx.Node, grid: Grid) -> tuple[int, int]:
    """The least and the greatest level that a node can give."""
    low, high = _REACH.get(source.target, (-math.inf, math.inf))
    if source.target in _CLIPS:
        given = [float(value) for value in source.args[1:] if isinstance(value, int | float)]
        low, high = [*given, *(-1.0, 1.0)[len(given) :]]
    low, high = max(low, grid.low), min(high, grid.high)
    return round(low / grid.scale) + grid.zero_point, round(high / grid.scale) + grid.zero_point
