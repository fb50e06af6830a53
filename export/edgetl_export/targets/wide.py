"""int16 activations: symmetric around zero, with room to spare, and channels whose biases still fit behind them."""

from __future__ import annotations

import torch

from edgetl_export.capture import Captured
from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.quantization import Grid, Quantized

__all__ = ["HEADROOM", "with_live_channels"]

HEADROOM = 2.0
"""Of 16 bits one is spent on values beyond those that calibration met: clipping would cost more than rounding."""

_LARGEST_BIAS = 2.0**30
"""ai-edge-quantizer clips biases at 31 bits, though they are stored in 64."""


def with_live_channels(quantized: Quantized) -> Captured:
    """The network with a tiny weight in each channel that training switched off, so that its bias can be written.

    A bias counts in steps of input scale times weight scale, and an int16 input's scale is up to 128 times finer than
    that for which `quantize_static` chose such weights. The output changes by at most half a percent of the bias.
    """
    captured, activations = quantized.captured, quantized.quantization.activations
    levels = quantized.quantization.weight_levels
    revived: dict[str, torch.Tensor] = {}
    for layer in layers(captured.batched.graph):
        if layer.bias is None:
            continue
        weight, bias = captured.module.get_parameter(layer.weight), captured.module.get_parameter(layer.bias)
        least = bias.abs() * levels / (_step(activations[layer.input]) * _LARGEST_BIAS)
        flat = weight.reshape(len(weight), -1)
        dead = flat.abs().amax(1) < least
        if dead.any():
            flat = flat.clone()
            flat[dead, 0] = least[dead]
            revived[layer.weight] = flat.reshape(weight.shape)
    return captured.with_parameters(revived) if revived else captured


def _step(grid: Grid) -> float:
    return max(-grid.low, grid.high) * HEADROOM / (2**15 - 1)
