"""int16 activations: symmetric around zero, with room to spare, and channels whose biases still fit behind them."""

from __future__ import annotations

from edgetl_export.capture import Captured
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.static import revived

__all__ = ["HEADROOM", "with_live_channels"]

HEADROOM = 2.0
"""Of 16 bits one is spent on values beyond those that calibration met: clipping would cost more than rounding."""


def with_live_channels(quantized: Quantized) -> Captured:
    """The network with a tiny weight in each channel that training switched off, so that its bias can be written.

    An int16 input's scale is up to 128 times finer than that for which `quantize_static` chose such weights.
    """
    steps = {name: _step(grid) for name, grid in quantized.quantization.activations.items()}
    return revived(quantized.captured, steps, quantized.quantization.weight_levels)


def _step(grid: Grid) -> float:
    return max(-grid.low, grid.high) * HEADROOM / (2**15 - 1)
