"""The quantised model in torch: the captured graph with every weight and every activation rounded to its grid.

What is the same for all engines is here: the values that a tensor can take. In a network of integer sums (`exact`) they
come to the same values; here sums are added in float32, so that one in some hundred thousand is a level off.
Gradients pass through the rounding (straight-through estimator, Bengio, Leonard and Courville 2013), so that the same
graph can be trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.capture import Captured
from edgetl_export.quantize.layers import Layer, layers, rounded
from edgetl_export.quantize.quantization import Quantization, weight_scales
from edgetl_export.source import by_name

__all__ = ["Simulation", "float_outputs", "not_rounded"]

_BATCH = 16
_CPU = torch.device("cpu")

Adjust = Callable[[fx.Node, Any], Any]


class Simulation:
    """Runs uint8 images (n, H, W, C) through the quantised graph on a device; ``parameters`` may be trained there.

    Nodes of ``quantization.in_float`` keep float weights, and an activation between such nodes alone is not rounded.
    """

    def __init__(self, captured: Captured, quantization: Quantization, *, device: torch.device = _CPU) -> None:
        self.module = _on(_out_of_place(captured.batched), device)
        self.names = captured.source.outputs
        self.device = device
        self.quantization = quantization
        graph = self.module.graph
        self.layers = layers(graph)
        in_float = set(quantization.in_float)
        self.rounded = [
            name
            for name in rounded(graph)
            if name in quantization.activations and not not_rounded(graph, name, in_float)
        ]
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: torch.nn.Parameter(value.detach().clone(), requires_grad=False)
            for name, value in _parameters(self.module, self.layers).items()
        }
        integer = [layer for layer in self.layers if layer.node not in in_float]
        self._weights = {layer.weight for layer in integer}
        self._biases = {
            layer.bias: layer for layer in integer if layer.bias and layer.input in quantization.activations
        }
        levels = quantization.weight_levels
        self._wider = {
            name: torch.tensor(scales, device=device) / weight_scales(self.parameters[name], levels)
            for name, scales in quantization.weights.items()
        }
        self.grids: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
            name: (
                torch.tensor(quantization.activations[name].scale, device=device),
                torch.tensor(quantization.activations[name].zero_point, dtype=torch.int32, device=device),
            )
            for name in self.rounded
        }

    def run(
        self,
        images: torch.Tensor,
        *,
        keep: Collection[str] = (),
        scales: Mapping[str, torch.Tensor] | None = None,
        adjust: Adjust | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The network's outputs by name, each (n, ...), and what the nodes in `keep` give.

        `scales` of activations stand in for the quantisation's, and get gradients. `adjust` is shown what a node gives
        before it is rounded, and says what to go on with.
        """
        given = {name: self.parameter(name) for name in self.parameters}
        interpreter = _Rounding(self.module, given, self.grids, keep, scales or {}, adjust)
        return by_name(interpreter.run(images.to(self.device)), self.names), interpreter.kept

    def outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, each (n, ...), of any number of images (n, H, W, C) uint8, a few at a time."""
        with torch.inference_mode():
            parts = [
                self.run(torch.from_numpy(images[start : start + _BATCH]))[0] for start in range(0, len(images), _BATCH)
            ]
        return {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in self.names}

    def run_float(
        self, images: torch.Tensor, *, keep: Collection[str] = (), adjust: Adjust | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The same without any rounding, from the captured module's own parameters."""
        interpreter = _Rounding(self.module, {}, {}, keep, {}, adjust)
        return by_name(interpreter.run(images.to(self.device)), self.names), interpreter.kept

    def weight_scales(self, name: str) -> torch.Tensor:
        """Scale per output channel for a weight as it is now: the quantisation's, moved with the largest weight."""
        return weight_scales(self.parameters[name], self.quantization.weight_levels) * self._wider[name]

    def parameter(self, name: str) -> torch.Tensor:
        """A parameter as the quantised network has it: weights and biases in whole steps, the rest as it is."""
        value = self.parameters[name]
        if name in self._biases:
            layer = self._biases[name]
            steps = self.weight_scales(layer.weight) * self.quantization.activations[layer.input].scale
            # Straight through, as everywhere: the step is far below what a bias learns.
            return value + ((value / steps).round() * steps - value).detach()
        if name not in self._weights:
            return value
        levels = self.quantization.weight_levels
        scales = self.weight_scales(name)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(value, scales, zeros, 0, -levels, levels)


def float_outputs(captured: Captured, images: torch.Tensor, nodes: Collection[str]) -> dict[str, torch.Tensor]:
    """What these nodes give for uint8 `images` (n, H, W, C) in the network as it was captured."""
    interpreter = _Rounding(_out_of_place(captured.batched), {}, {}, nodes, {}, None)
    interpreter.run(images)
    return interpreter.kept


class _Rounding(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        parameters: Mapping[str, torch.Tensor],
        grids: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        keep: Collection[str],
        scales: Mapping[str, torch.Tensor],
        adjust: Adjust | None,
    ) -> None:
        super().__init__(module)
        self._given, self._grids, self._keep, self._scales = parameters, grids, keep, scales
        self._adjust = adjust
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and n.target in self._given:
            return self._given[str(n.target)]
        result = super().run_node(n)
        if self._adjust is not None:
            result = self._adjust(n, result)
        grid = self._grids.get(n.name)
        if grid is not None:
            result = _round(result, grid, self._scales.get(n.name))
        if n.name in self._keep:
            self.kept[n.name] = result
        return result


class _Round(torch.autograd.Function):
    """Rounding to a grid whose scale gets a gradient (Esser et al., "Learned step size quantization", ICLR 2020)."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        """`value` on the grid."""
        # With the scale as a tensor: to read it would be to wait for the GPU.
        on = torch.ones(1, dtype=torch.int64, device=value.device)
        rounded, inside = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default(
            value, scale, zero_point, on, 0, 255
        )
        ctx.save_for_backward(value, rounded, inside, scale)
        result: torch.Tensor = rounded
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Straight through where nothing was clipped; the scale by what rounding and clipping did."""
        value, rounded, inside, scale = ctx.saved_tensors
        passed = gradients[0] * inside
        # A scale's gradient is a sum over the whole tensor: it is scaled down as the paper says.
        damping = 1.0 / math.sqrt(value.numel() / len(value) * 255)
        change = (torch.sum(gradients[0] * rounded) - torch.sum(passed * value)) / scale
        return passed, change * damping, None


def _round(value: torch.Tensor, grid: tuple[torch.Tensor, torch.Tensor], learned: torch.Tensor | None) -> torch.Tensor:
    if learned is None:
        return torch.fake_quantize_per_tensor_affine(value, grid[0], grid[1], 0, 255)
    result: torch.Tensor = _Round.apply(value, learned, grid[1])
    return result


def _out_of_place(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in which activations leave their input alone: rounding needs it again for its gradient."""
    copied = copy.deepcopy(module)
    for node in copied.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            space, name = node.target.namespace, node.target._opname
            overload = node.target._overloadname
            plain = getattr(getattr(torch.ops, space), name.rstrip("_"), None)
            if name.endswith("_") and not name.startswith("_") and plain is not None:
                node.target = getattr(plain, overload)
    copied.recompile()
    return copied


def _on(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The same on another device: parameters, constants, and what nodes make of nothing."""
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = node.kwargs | {"device": device}
    module.recompile()
    return module.to(device)


def _parameters(module: fx.GraphModule, found: list[Layer]) -> dict[str, torch.Tensor]:
    names = [name for layer in found for name in (layer.weight, layer.bias) if name is not None]
    return {name: module.get_parameter(name) for name in names}


def not_rounded(graph: fx.Graph, name: str, in_float: Collection[str]) -> bool:
    """Whether the node called `name` and all that read it are among the float operators `in_float`."""
    if name not in in_float:
        return False
    node = next(node for node in graph.nodes if node.name == name)
    return all(user.name in in_float for user in node.users)
