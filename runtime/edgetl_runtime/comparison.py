"""How far apart two outputs are: the measures that self-test and verification share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["sqnr_db"]


def sqnr_db(reference: npt.NDArray[Any], output: npt.NDArray[Any]) -> float:
    """Signal to quantisation noise ratio in dB: ``10 log10(sum ref^2 / sum (ref - out)^2)``, summed in float64.

    Infinite when both are equal, -infinite when `output` holds a NaN or an infinity, or when only the reference is
    all zero. Raises `ValueError` when the shapes differ.
    """
    if reference.shape != output.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {output.shape}")
    signal = np.asarray(reference, dtype=np.float64)
    noise = signal - np.asarray(output, dtype=np.float64)
    if not np.isfinite(noise).all():
        return -math.inf
    noise_power = float(np.square(noise).sum())
    signal_power = float(np.square(signal).sum())
    if noise_power == 0.0:
        return math.inf
    return 10.0 * math.log10(signal_power / noise_power) if signal_power > 0.0 else -math.inf
