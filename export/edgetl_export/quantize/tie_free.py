"""Scales with which every engine rounds alike: no sum of integers ever falls in the middle between two levels.

An integer engine multiplies a sum of integers by a ratio of scales and rounds what comes out to a level. Engines differ
in how they multiply (float32, or integers and shifts) and in where they round a half; and a network that rounds some
fifty times makes other labels of a few last bits that differ. Here every ratio is a fraction ``n / d`` with an odd
``d``: a sum of integers times that is never nearer than ``1 / (2 d)`` to a half. With ``d`` up to `LARGEST` that is
more than float32 errs, and all come to the same integers. Scales move by some thousandths at most.

Before that, scales are brought in proportion: engines refuse a ratio of 256 and more. XNNPACK 2026 cannot prepare a
convolution with one, and some files then end the process; TFLite's own sum aborts at 2^19.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.quantize.layers import CLIPPING, SUMS, joining, layers, rounded, with_activation
from edgetl_export.quantize.quantization import PIXELS, PROBABILITIES, Grid, Quantized

__all__ = ["LARGEST", "LARGEST_RATIO", "odd_fraction", "tie_free"]

LARGEST = 2047
"""The largest denominator: nothing is nearer to a half than 0.00024 of a level."""

_FINEST, _COARSEST = 511, 127
"""The least scale of tensors that are added is so many units: it moves by 2 to 8 thousandths, by twice that if clipped.
Where scales are so far apart that it would be fewer, they stay."""

LARGEST_RATIO = 64
"""A step of what comes in is never more steps of what comes out: all but zero would be clipped anyway. Engines refuse
256; other repairs may still widen weights."""

_NO_PART = 2**14
"""What has so much finer steps than the other part of a sum adds nothing to it."""

_LAST_BITS = 1e-6
"""What is a fraction already stays one, although scales are kept in float32."""

_aten = torch.ops.aten
_POOLS = (_aten.adaptive_avg_pool2d.default, _aten.mean.dim)
_PRODUCTS = (_aten.mul.Tensor, _aten.mul_.Tensor)


def tie_free(quantized: Quantized) -> Quantized:
    """The same network with scales moved until every ratio of scales is an odd fraction.

    Scales of what is added together become odd multiples of one unit; what pools and products of activations give gets
    another scale, and so do the weights of layers whose output is rounded, per output channel and never a smaller one.
    Ranges that have collapsed beside what comes in are widened first, to `LARGEST_RATIO`.
    Scales that engines dictate (grey levels, probabilities) stay, and with them the sums that they are part of; so do
    those of sums whose parts are of very different size.
    """
    grids = _Grids(quantized)
    grids.keep_in_proportion()
    added = grids.add_in_units()
    grids.multiply_in_fractions(besides=added)
    quantization = replace(quantized.quantization, activations=grids.grids, weights=grids.weight_scales())
    return replace(quantized, quantization=quantization)


def odd_fraction(ratio: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The least ``n / d`` that is not below `ratio` (any shape, above 0), ``d`` odd and up to `LARGEST`.

    Of ratios below ``1 / LARGEST`` the numerator is 1 and ``d`` is larger.
    """
    ratios = np.asarray(ratio, np.float64)
    denominators = np.arange(1, LARGEST + 1, 2, dtype=np.float64)
    numerators = np.ceil(ratios[..., None] * denominators * (1 - _LAST_BITS))
    tiny = 1 / (np.floor(((1 + _LAST_BITS) / ratios - 1) / 2) * 2 + 1)
    return np.where(ratios < 1 / LARGEST, tiny, (numerators / denominators).min(axis=-1))


class _Grids:
    """The grids of a network's nodes while they are moved. Nodes that hand on another's values have its grid."""

    def __init__(self, quantized: Quantized) -> None:
        self.grids = dict(quantized.quantization.activations)
        self._weights = quantized.quantization.weights
        self._graph = quantized.captured.batched.graph
        self._origin: dict[str, str] = {}
        for node in self._graph.nodes:
            self._origin[node.name] = self._origin_of(node)
        for node in joining(self._graph):
            self._move_together(node)
        self._dictated = {name for name, grid in self.grids.items() if grid in (PIXELS, PROBABILITIES)}
        self._clipping = {self._origin[node.name] for node in self._graph.nodes if node.target in CLIPPING}

    def keep_in_proportion(self) -> None:
        """Widen what a layer, a sum or a product gives where its range is next to nothing beside what comes in."""
        by_node = {layer.node: layer for layer in layers(self._graph)}
        for node in self._graph.nodes:
            sources = [source.name for source in node.all_input_nodes if source.name in self.grids]
            scales = [self.grids[name].scale for name in sources]
            layer, result = by_node.get(node.name), with_activation(node).name
            if layer is not None and layer.input in self.grids:
                self._widen(result, self.grids[layer.input].scale * max(self._weights[layer.weight]) / LARGEST_RATIO)
            elif node.target in SUMS and len(scales) == 2:
                self._widen(result, max(scales) / LARGEST_RATIO)
                # Where one part is nothing, a target that finds tensors by value takes the other for their sum.
                for name in sources:
                    self._widen(name, max(scales) / _NO_PART)
            elif node.target in _PRODUCTS and len(scales) == 2:
                self._widen(result, math.prod(scales) / LARGEST_RATIO)

    def _widen(self, name: str, least: float) -> None:
        """Give the node, and those that hand its values on, a scale of at least `least`, unless it is dictated."""
        grid = self.grids.get(name)
        if grid is not None and grid.scale < least and self._origin[name] not in self._dictated:
            self._move(name, least, zero_point=round(grid.zero_point * grid.scale / least))

    def add_in_units(self) -> set[str]:
        """Move what is added; the tensors that are part of a sum."""
        added: set[str] = set()
        for together in self._added_together():
            added |= together
            scales = {name: self.grids[name].scale for name in together}
            least, largest = min(scales.values()), max(scales.values())
            unit = max(least / _FINEST, largest / LARGEST)
            if together & self._dictated or least < _COARSEST * unit:
                continue
            for name, scale in scales.items():
                # An activation that clips is fused into rounding only while its grid ends where it clips.
                to_whole: Callable[[float], int] = math.floor if name in self._clipping else round
                self._move(name, unit * max(1, 2 * to_whole((scale / unit * (1 + _LAST_BITS) - 1) / 2) + 1))
        return added

    def multiply_in_fractions(self, *, besides: set[str]) -> None:
        """Move what pools and products of activations give, in running order."""
        for node in self._graph.nodes:
            factor = self._factor(node)
            if factor is not None and self._origin[node.name] not in besides | self._dictated:
                self._move(node.name, factor / float(odd_fraction(factor / self.grids[node.name].scale)))

    def weight_scales(self) -> dict[str, tuple[float, ...]]:
        """Of every layer, for the grids as they are now."""
        weights = dict(self._weights)
        inside = set(rounded(self._graph))
        for layer in layers(self._graph):
            if layer.output in inside and layer.input in self.grids:
                step = self.grids[layer.output].scale / self.grids[layer.input].scale
                scales = odd_fraction(np.array(self._weights[layer.weight]) / step) * step
                weights[layer.weight] = tuple(float(scale) for scale in scales.astype(np.float32))
        return weights

    def _factor(self, node: fx.Node) -> float | None:
        """The scale of the sum of levels that a pool divides, or of the product of two; None for other nodes."""
        sources = [source for source in node.all_input_nodes if source.name in self.grids]
        if node.name not in self.grids:
            return None
        if node.target in _POOLS and len(sources) == 1:
            return self.grids[sources[0].name].scale * _size(node) / _size(sources[0])
        if node.target in _PRODUCTS and len(sources) == 2:
            return self.grids[sources[0].name].scale * self.grids[sources[1].name].scale
        return None

    def _added_together(self) -> list[set[str]]:
        """Groups of tensors that are added, and their sums; no tensor is in two of them."""
        groups: list[set[str]] = []
        for node in self._graph.nodes:
            sources = [source for source in node.all_input_nodes if source.name in self.grids]
            if node.target not in SUMS or len(sources) != 2 or node.name not in self.grids:
                continue
            group = {self._origin[one.name] for one in (*sources, with_activation(node))}
            for other in [other for other in groups if other & group]:
                groups.remove(other)
                group |= other
            groups.append(group)
        return groups

    def _move(self, name: str, scale: float, *, zero_point: int | None = None) -> None:
        for other, origin in self._origin.items():
            if origin == self._origin[name] and other in self.grids:
                kept = self.grids[other].zero_point if zero_point is None else zero_point
                self.grids[other] = Grid(float(np.float32(scale)), kept)

    def _origin_of(self, node: fx.Node) -> str:
        """The node whose values `node` hands on; its own name when it computes some."""
        sources = node.all_input_nodes
        alike = len(sources) == 1 and self.grids.get(node.name) == self.grids.get(sources[0].name)
        return self._origin[sources[0].name] if alike and node.name in self.grids else node.name

    def _move_together(self, joined: fx.Node) -> None:
        """What is joined on one grid stays on one."""
        alike = [node for node in joined.all_input_nodes if self.grids.get(node.name) == self.grids.get(joined.name)]
        merged = {self._origin[node.name] for node in (*alike, joined)}
        kept = self._origin[alike[0].name] if alike else self._origin[joined.name]
        self._origin = {name: kept if origin in merged else origin for name, origin in self._origin.items()}


def _size(node: fx.Node) -> int:
    """Numbers that a node gives for one image; how many images there are is left open in the graph."""
    return math.prod(int(size) for size in node.meta["val"].shape[1:])
