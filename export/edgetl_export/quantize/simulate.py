"""The quantised model in torch: the captured graph with every weight and every activation rounded to its grid.

No engine is imitated to the last bit; what is the same for all of them is here: the values that a tensor can take.
Gradients pass through the rounding (straight-through estimator, Bengio, Leonard and Courville 2013), so that the same
graph can be trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from edgetl_export.capture import Captured
from edgetl_export.quantize.layers import Layer, layers, rounded
from edgetl_export.quantize.quantization import Quantization, weight_scales

__all__ = ["Simulation"]


class Simulation:
    """Runs uint8 images (n, H, W, 3) through the quantised graph; ``parameters`` may be trained.

    Nodes of ``quantization.in_float`` keep float weights, and an activation between such nodes alone is not rounded.
    """

    def __init__(self, captured: Captured, quantization: Quantization) -> None:
        self.module = captured.batched
        self.quantization = quantization
        graph = self.module.graph
        self.layers = layers(graph)
        in_float = set(quantization.in_float)
        self.rounded = [
            name for name in rounded(graph) if name in quantization.activations and not _among(graph, name, in_float)
        ]
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: torch.nn.Parameter(value.detach().clone(), requires_grad=False)
            for name, value in _parameters(self.module, self.layers).items()
        }
        self._weights = {layer.weight for layer in self.layers if layer.node not in in_float}
        self.grids: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
            name: _tensors(quantization.activations[name].scale, quantization.activations[name].zero_point)
            for name in self.rounded
        }

    def run(self, images: torch.Tensor, *, keep: Collection[str] = ()) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits (n, classes), and the outputs of the nodes in `keep`."""
        given = {name: self._on_grid(name, value) for name, value in self.parameters.items()}
        interpreter = _Rounding(self.module, given, self.grids, keep)
        return interpreter.run(images), interpreter.kept

    def run_float(
        self, images: torch.Tensor, *, keep: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same without any rounding, from the captured module's own parameters."""
        interpreter = _Rounding(self.module, {}, {}, keep)
        return interpreter.run(images), interpreter.kept

    def _on_grid(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in self._weights:
            return value
        levels = self.quantization.weight_levels
        scales = torch.tensor(weight_scales(value, levels))
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(value, scales, zeros, 0, -levels, levels)


class _Rounding(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        parameters: Mapping[str, torch.Tensor],
        grids: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        keep: Collection[str],
    ) -> None:
        super().__init__(module)
        self._given, self._grids, self._keep = parameters, grids, keep
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and n.target in self._given:
            return self._given[str(n.target)]
        result = super().run_node(n)
        grid = self._grids.get(n.name)
        if grid is not None:
            result = torch.fake_quantize_per_tensor_affine(result, grid[0], grid[1], 0, 255)
        if n.name in self._keep:
            # An activation behind may work in place.
            self.kept[n.name] = result.clone()
        return result


def _parameters(module: fx.GraphModule, found: list[Layer]) -> dict[str, torch.Tensor]:
    names = [name for layer in found for name in (layer.weight, layer.bias) if name is not None]
    return {name: module.get_parameter(name) for name in names}


def _among(graph: fx.Graph, name: str, in_float: set[str]) -> bool:
    """Whether a node and all that read it are float operators."""
    if name not in in_float:
        return False
    node = next(node for node in graph.nodes if node.name == name)
    return all(user.name in in_float for user in node.users)


def _tensors(scale: float, zero_point: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)
