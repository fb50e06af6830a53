"""Repair without training: biases that undo the mean error of each channel, and channels brought to one size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.capture import Captured
from edgetl_export.quantize.layers import scalable
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.simulate import Simulation, float_outputs

__all__ = ["correct_biases", "equalize"]

_MOST = 8.0
"""Largest factor between channels that equalisation evens out."""


def correct_biases(quantized: Quantized, images: npt.NDArray[np.uint8]) -> dict[str, torch.Tensor]:
    """New biases by parameter name, fitted on `images` (n, H, W, C) uint8, all at once in memory.

    Front to back, every channel's mean output over the images is brought back to that of the float network, with what
    was corrected before taken into account (Nagel et al., "Data-free quantization through weight equalization and
    bias correction", ICCV 2019, section 4.2, on real images instead of batch norm statistics).
    """
    simulation = Simulation(quantized.captured, quantized.quantization)
    corrected = {layer.node: layer for layer in simulation.layers if layer.bias is not None}
    nodes = {node.name: node for node in simulation.module.graph.nodes}
    batch = torch.from_numpy(images)
    biases: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        _, exact = simulation.run_float(batch, keep=corrected)
        means = {name: _channel_means(nodes[name], value) for name, value in exact.items()}
        del exact

        def shift(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
            layer = corrected.get(node.name)
            if layer is None or layer.bias is None:
                return value
            error = means[node.name] - _channel_means(node, value)
            biases[layer.bias] = simulation.parameters[layer.bias].detach() + error
            return value + (error if _channels_last(node) else error[:, None, None])

        simulation.run(batch, adjust=shift)
    return {name: bias.clone() for name, bias in biases.items()}


def _channel_means(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    return value.flatten(0, -2).mean(0) if _channels_last(node) else value.mean((0, 2, 3))


def _channels_last(node: fx.Node) -> bool:
    """A matrix product has its channels last, also where it is done at every place of an image (ConvNeXt)."""
    return node.target is torch.ops.aten.linear.default


def equalize(captured: Captured, images: npt.NDArray[np.uint8]) -> tuple[Captured, int]:
    """The same function with channels of more even size, and how many tensors were evened out.

    Between two layers that scale alike - nothing or a ReLU between them, nobody else reading - channel c may be
    multiplied by s_c in front and divided by it behind. s_c is the square root of what would give every channel the
    range of the largest (half of the way, as in Xiao et al., "SmoothQuant", ICML 2023, since the weights behind pay).
    """
    pairs = scalable(captured.batched.graph)
    with torch.inference_mode():
        kept = float_outputs(captured, torch.from_numpy(images), [front.output for front, _ in pairs])
    changed: dict[str, torch.Tensor] = {}

    def current(name: str) -> torch.Tensor:
        return changed.get(name, captured.module.get_parameter(name).detach())

    for front, behind in pairs:
        largest = kept[front.output].abs().amax((0, 2, 3)).clamp(min=1e-6)
        scale = (largest.max() / largest).clamp(max=_MOST).sqrt()
        changed[front.weight] = current(front.weight) * scale[:, None, None, None]
        if front.bias is not None:
            changed[front.bias] = current(front.bias) * scale
        depthwise = behind.groups > 1
        changed[behind.weight] = current(behind.weight) / (
            scale[:, None, None, None] if depthwise else scale[None, :, None, None]
        )
    return captured.with_parameters(changed), len(pairs)
