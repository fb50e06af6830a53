"""How large the sums of pairs of products become on photos: what 16 bits clip there, not what they might."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.nn import functional as F

from edgetl_export.quantize.integers import GREATEST, MLAS, ONEDNN, IntegerLayer, grid_before, integer_layers, pairs_of
from edgetl_export.quantize.layers import Layer, layers
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.simulate import Simulation

__all__ = ["sums_on_photos"]

_PLACES = 400
"""Of an image, drawn with a fixed seed; a layer of MobileNetV2 at 224 pixels has 49 to 12,544."""


def sums_on_photos(quantized: Quantized, images: npt.NDArray[np.uint8]) -> dict[str, torch.Tensor]:
    """By parameter the largest magnitude that a pair's sum had in each output (outputs,), in any packing.

    Only outputs of which a pair can outgrow 16 bits are looked at; the others have 0. Grouped convolutions are left
    out. `images` are uint8 (n, H, W, C).
    """
    simulation = Simulation(quantized.captured, quantized.quantization)
    nodes = {node.name: node for node in simulation.module.graph.nodes}
    risky: dict[str, list[tuple[IntegerLayer, Any]]] = {}
    for packing in (MLAS, ONEDNN):
        for found in integer_layers(quantized, packing):
            if found.pairs_at_risk:
                risky.setdefault(found.parameter, []).append((found, packing))
    seen: dict[str, torch.Tensor] = {}
    looks: dict[str, Callable[[torch.Tensor], None]] = {}
    for layer in layers(simulation.module.graph):
        if layer.weight in risky and layer.groups == 1:
            _, grid = grid_before(quantized.quantization, layer, nodes, set(simulation.rounded))
            seen[layer.weight] = torch.zeros(len(risky[layer.weight][0][0].worst))
            looks[layer.node] = _look(nodes[layer.node], layer, grid, risky[layer.weight], seen)
    watching = _Watching(quantized.captured.batched, looks)
    with torch.inference_mode():
        for image in images:
            watching.run(torch.tensor(image[None]))
    return seen


class _Watching(fx.Interpreter):
    """Runs the float network, and shows some layers' inputs."""

    def __init__(self, module: fx.GraphModule, looks: Mapping[str, Callable[[torch.Tensor], None]]) -> None:
        super().__init__(module)
        self._looks = looks

    def run_node(self, n: fx.Node) -> Any:
        look = self._looks.get(n.name)
        if look is not None:
            look(self.env[n.all_input_nodes[0]])
        return super().run_node(n)


def _look(
    node: fx.Node, layer: Layer, grid: Grid, risky: list[tuple[IntegerLayer, Any]], seen: dict[str, torch.Tensor]
) -> Callable[[torch.Tensor], None]:
    generator = torch.Generator().manual_seed(0)

    def look(value: torch.Tensor) -> None:
        levels = (torch.round(value.float() / grid.scale) + grid.zero_point).clamp(0, 255)
        places = _places(levels, node, grid.zero_point, risky[0][0].integers.shape[2:])
        places = places[torch.randperm(len(places), generator=generator)[:_PLACES]]
        for found, packing in risky:
            outputs = torch.nonzero(found.worst > GREATEST)[:, 0]
            weights, levels_in_pairs = (
                pairs_of(values.float(), packing).transpose(0, 1) for values in (found.integers[outputs], places)
            )
            largest = seen[layer.weight]
            for of_weights, of_levels in zip(weights, levels_in_pairs, strict=True):
                sums = (of_levels @ of_weights.T).abs().amax(0)
                largest[outputs] = torch.maximum(largest[outputs], sums)

    return look


def _places(levels: torch.Tensor, node: fx.Node, zero: int, kernel: Any) -> torch.Tensor:
    """The levels that each of a layer's results is made of: (places, channels, rows, columns)."""
    if levels.ndim != 4 or node.target is torch.ops.aten.linear.default:
        return levels.reshape(-1, levels.shape[-1], 1, 1)
    stride, padding, dilation = _pairs_of_numbers(node)
    padded = F.pad(levels, (padding[1], padding[1], padding[0], padding[0]), value=zero)
    columns = F.unfold(padded, tuple(kernel), dilation=dilation, stride=stride)
    return columns.transpose(1, 2).reshape(-1, levels.shape[1], *kernel)


def _pairs_of_numbers(convolution: fx.Node) -> list[tuple[int, int]]:
    """Stride, padding and dilation, (rows, columns) each."""
    given = [*convolution.args[3:6], *(1, 0, 1)[len(convolution.args[3:6]) :]]
    numbers = [[value] if isinstance(value, int) else list(value) for value in given]  # type: ignore[arg-type]
    return [(int(first), int(last)) for first, *_, last in ([*value, value[-1]] for value in numbers)]
