"""Layers as integer engines multiply them, and which of their products are added in pairs of 16 bits.

On x86 processors without VNNI uint8 activations meet int8 weights in ``vpmaddubsw`` (Intel 64 and IA-32 manual, volume
2, PMADDUBSW): the products of two neighbours are added and clipped to -32768 to 32767 before they reach the 32-bit
accumulator. Which products are neighbours is up to how a library packs its weights. For oneDNN and FBGEMM what is
said here was compared with their kernels without VNNI, and no output differed; for MLAS it was read off its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from edgetl_export.quantize.layers import Layer, layers
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_runtime.errors import ExportError

__all__ = ["FBGEMM", "GREATEST", "LEAST", "MLAS", "ONEDNN", "IntegerLayer", "Packing", "PairGroup", "integer_layers"]

_aten = torch.ops.aten
LEAST, GREATEST = -(2**15), 2**15 - 1
"""What a pair's sum is clipped to."""

_EXACT_IN_FLOAT = 2**24
_ELEMENTS = 2**22
"""Pair sums held at once."""

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
    count's last product pairs with the next tap's first one; otherwise it stays alone. ``depthwise``: depthwise
    convolutions are packed like all others, along their taps; otherwise they are widened first, and exact.
    """

    across_taps: bool
    depthwise: bool


MLAS = Packing(across_taps=True, depthwise=False)
"""ONNX Runtime: images are unfolded with channels last and multiplied by QGEMM, which packs four of the reduction
axis together; qdwconv.cpp widens depthwise products to 32 bits."""

ONEDNN = Packing(across_taps=False, depthwise=False)
"""OpenVINO: blocks of four input channels, filled up with zeros; depthwise convolutions use ``vpmaddwd``
(jit_avx512_core_x8s8s32x_conv_kernel.cpp). Its guide "Nuances of int8 computations" names the loss."""

FBGEMM = Packing(across_taps=True, depthwise=True)
"""PyTorch. No target runs on it; it is the one that packs depthwise convolutions, and so the most pessimistic."""


@dataclass(frozen=True)
class PairGroup:
    """Pairs that can saturate, of the same two kernel taps: input channels, weights and output channel of each."""

    taps: tuple[int, int]
    channels: tuple[torch.Tensor, torch.Tensor]
    weights: tuple[torch.Tensor, torch.Tensor]
    outputs: torch.Tensor


@dataclass(frozen=True)
class IntegerLayer:
    """A layer as engines multiply it: int32 ``weights`` (outputs, channels, rows, columns), also of matrices.

    ``scales`` (outputs) are those of the products, ``bias`` counts in them; ``worst`` (outputs) is the largest
    magnitude of a pair's sum, ``groups`` are the pairs of which that may outgrow 16 bits, out of ``pairs``.
    """

    name: str
    parameter: str
    grid: Grid
    weights: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    convolution_groups: int
    is_matrix: bool
    worst: torch.Tensor
    pairs: int
    groups: tuple[PairGroup, ...]

    def exact(self, levels: torch.Tensor) -> torch.Tensor:
        """Integer sums (n, outputs, rows, columns) of `levels` (n, channels, rows, columns), as float64."""
        largest = 255 * int(self.weights.flatten(1).abs().sum(1).max())
        dtype = torch.float32 if largest < _EXACT_IN_FLOAT else torch.float64
        sums = F.conv2d(
            (levels - self.grid.zero_point).to(dtype),
            self.weights.to(dtype),
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.convolution_groups,
        )
        return sums.double()

    def lost(self, levels: torch.Tensor, step: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For a few pairs at a time: output channels (k), and by how much each (n, k, rows, columns) was clipped.

        Only every `step`-th row and column of the output is looked at.
        """
        (top, left), (rows, columns) = self.padding, self.weights.shape[2:]
        padded = F.pad(levels, (left, left, top, top), value=self.grid.zero_point)
        height, width = (
            padded.shape[2 + axis] - self.dilation[axis] * (size - 1) for axis, size in enumerate((rows, columns))
        )

        def seen(tap: int) -> torch.Tensor:
            row, column = tap // columns * self.dilation[0], tap % columns * self.dilation[1]
            window = padded[:, :, row : row + height, column : column + width]
            return window[:, :, :: self.stride[0] * step, :: self.stride[1] * step]

        for group in self.groups:
            first, second = seen(group.taps[0]), seen(group.taps[1])
            together = max(1, _ELEMENTS // (first.numel() // first.shape[1]))
            for start in range(0, len(group.outputs), together):
                part = slice(start, start + together)
                sums = first[:, group.channels[0][part]] * group.weights[0][part, None]
                sums += second[:, group.channels[1][part]] * group.weights[1][part, None]
                yield group.outputs[part], sums - sums.clamp(LEAST, GREATEST)


def integer_layers(quantized: Quantized, packing: Packing) -> dict[str, IntegerLayer]:
    """The layers that engines multiply in integers, by graph node."""
    simulation = Simulation(quantized.captured, quantized.quantization)
    nodes = {node.name: node for node in simulation.module.graph.nodes}
    return {
        layer.node: _integer_layer(quantized, layer, nodes, set(simulation.rounded), packing)
        for layer in layers(simulation.module.graph)
        if layer.node not in quantized.quantization.in_float
    }


def _integer_layer(
    quantized: Quantized, layer: Layer, nodes: Mapping[str, fx.Node], rounded: set[str], packing: Packing
) -> IntegerLayer:
    quantization, module = quantized.quantization, quantized.captured.batched
    source = nodes[layer.input]
    while source.name not in rounded and source.target in _LAYOUT:
        source = source.all_input_nodes[0]
    grid = quantization.activations.get(source.name)
    if grid is None:
        raise ExportError(f"the input of {layer.name} has no range", fix="calibrate the network that is quantised")
    values = module.get_parameter(layer.weight).detach()
    scales = torch.tensor(quantization.weights[layer.weight], dtype=torch.float64)
    levels = quantization.weight_levels
    by_output = (-1, *(1,) * (values.ndim - 1))
    weights = torch.round(values.double() / scales.reshape(by_output)).clamp(-levels, levels).to(torch.int32)
    is_matrix = weights.ndim == 2
    if is_matrix:
        weights = weights[:, :, None, None]
    groups, worst, pairs = _pairs(weights, layer.groups, _reachable(source, grid), packing)
    products = scales * grid.scale
    bias = None if layer.bias is None else torch.round(module.get_parameter(layer.bias).detach().double() / products)
    arguments = () if is_matrix else nodes[layer.node].args
    return IntegerLayer(
        layer.name,
        layer.weight,
        grid,
        weights,
        products,
        bias,
        stride=_both(arguments, 3, 1),
        padding=_both(arguments, 4, 0),
        dilation=_both(arguments, 5, 1),
        convolution_groups=layer.groups,
        is_matrix=is_matrix,
        worst=worst,
        pairs=pairs,
        groups=groups,
    )


def _pairs(
    weights: torch.Tensor, groups: int, reach: tuple[int, int], packing: Packing
) -> tuple[tuple[PairGroup, ...], torch.Tensor, int]:
    """Pairs that can saturate when levels are within `reach`, the largest sum by output, and how many there are."""
    outputs, channels, rows, columns = weights.shape
    taps = rows * columns
    # One product each in a lane of its own: every weight is paired with nothing.
    alone = channels == 1 and groups == outputs > 1 and not packing.depthwise
    order = torch.arange(taps * channels).reshape(taps, channels)
    filled = weights.permute(0, 2, 3, 1).reshape(outputs, taps, channels)
    if alone or not packing.across_taps:
        order, filled = F.pad(order, (0, channels % 2)), F.pad(filled, (0, channels % 2))
    odd = order.numel() % 2
    order, filled = F.pad(order.flatten(), (0, odd)), F.pad(filled.flatten(1), (0, odd))
    order, filled = order.reshape(-1, 2), filled.reshape(outputs, -1, 2)
    ends = torch.stack([filled * reach[0], filled * reach[1]])
    greatest, least = ends.amax(0).sum(-1), ends.amin(0).sum(-1)
    risky = (greatest > GREATEST) | (least < LEAST)
    worst = torch.maximum(greatest, -least).amax(1)
    found = []
    of_tap = order // channels
    for first, second in torch.unique(of_tap, dim=0).tolist():
        here = risky & (of_tap == torch.tensor([first, second])).all(1)
        output, pair = torch.nonzero(here, as_tuple=True)
        if len(output):
            offset = output // (outputs // groups) * channels
            channel = order[pair] % channels + offset[:, None]
            weight = filled[output, pair]
            weights_of = (weight[:, 0, None], weight[:, 1, None])
            found.append(PairGroup((first, second), (channel[:, 0], channel[:, 1]), weights_of, output))
    return tuple(found), worst, risky.numel()


def _reachable(source: fx.Node, grid: Grid) -> tuple[int, int]:
    """The least and the greatest level that a node can give."""
    low, high = _REACH.get(source.target, (-math.inf, math.inf))
    if source.target in _CLIPS:
        given = [float(value) for value in source.args[1:] if isinstance(value, int | float)]
        low, high = [*given, *(-1.0, 1.0)[len(given) :]]
    low, high = max(low, grid.low), min(high, grid.high)
    return round(low / grid.scale) + grid.zero_point, round(high / grid.scale) + grid.zero_point


def _both(arguments: tuple[Any, ...], position: int, default: int) -> tuple[int, int]:
    """A convolution's argument for rows and columns."""
    given = arguments[position] if len(arguments) > position else [default]
    return int(given[0]), int(given[-1])
