"""How much of the error in the outputs each rounding causes: what to keep in higher precision first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.simulate import Simulation, not_rounded

__all__ = ["in_float", "noise_by_node"]

_BATCH = 8


def noise_by_node(quantized: Quantized, images: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Expected squared error of the outputs, relative to their energy, by the node whose rounding causes it.

    To first order: the gradient of a random projection of the outputs times the rounding error, squared and averaged
    over images (Hutchinson's estimator of the trace of J^T J). Every output counts alike, whatever its size.
    """
    simulation = Simulation(quantized.captured, quantized.quantization)
    generator = torch.Generator().manual_seed(0)
    noise: dict[str, float] = defaultdict(float)
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH])
        watch = _Watch(simulation)
        outputs, _ = simulation.run_float(batch, adjust=watch)
        projections = [_projected(values, generator) for values in outputs.values() if values.is_floating_point()]
        torch.stack(projections).sum().backward()  # type: ignore[no-untyped-call]
        for name, value in watch.seen.items():
            scale, zero_point = simulation.grids[name]
            error = torch.fake_quantize_per_tensor_affine(value.detach(), scale, zero_point, 0, 255) - value.detach()
            assert value.grad is not None
            noise[name] += float((error * value.grad).flatten(1).sum(1).square().sum()) / len(images)
    return dict(noise)


def _projected(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The sum over images of random projections of an output (n, ...), each relative to its size."""
    flat = output.flatten(1)
    sign = torch.randint(0, 2, flat.shape, generator=generator) * 2.0 - 1.0
    size: torch.Tensor = flat.detach().norm(dim=1)
    return ((flat * sign).sum(1) / size.clamp(min=1e-12)).sum()


class _Watch:
    """Keeps the activations that would be rounded, and has their gradients kept."""

    def __init__(self, simulation: Simulation) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        self._simulation = simulation

    def __call__(self, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
        if node.name not in self._simulation.grids:
            return value
        kept = value if value.requires_grad else value.detach().requires_grad_()
        kept.retain_grad()
        self.seen[node.name] = kept
        return kept


def in_float(quantized: Quantized, noise: dict[str, float], share: float) -> Quantized:
    """`quantized` with the fewest roundings left out that cause `share` of the noise that is left.

    A rounding is left out when the operator in front of it and all that read it stay in float.
    """
    graph = quantized.captured.batched.graph
    nodes = {node.name: node for node in graph.nodes}
    kept: set[str] = set(quantized.quantization.in_float)
    noise = {name: value for name, value in noise.items() if not not_rounded(graph, name, kept)}
    covered, total = 0.0, sum(noise.values())
    for name in sorted(noise, key=lambda name: -noise[name]):
        if covered >= share * total:
            break
        covered += noise[name]
        group = {nodes[name], *nodes[name].users}
        for node in list(group):
            # An activation and the layer that it is fused into are one operator.
            group.update(user for user in node.users if len(node.users) == 1 and node.name not in noise)
            group.update(
                source
                for source in node.all_input_nodes
                if source.op == "call_function" and source.name not in noise and len(source.users) == 1
            )
        kept.update(node.name for node in group if node.op == "call_function")
    quantization = replace(quantized.quantization, in_float=tuple(sorted(kept)), rung="mixed")
    return replace(quantized, quantization=quantization)
