"""How far apart two outputs are: the measures that self-test and verification share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["least_sqnr_db", "same_label", "sqnr_db"]


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


def least_sqnr_db(reference: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]) -> float:
    """The SQNR in dB of the output that is farthest from its own in `reference`; both by name."""
    return min(sqnr_db(values, outputs[name]) for name, values in reference.items())


def same_label(reference: npt.NDArray[Any], logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """By image the share (0..1) of its rows of logits (n, ..., classes) whose largest is the same.

    A classifier has one row for an image, a map one for each place. Whether they are finite is not asked.
    """
    same = reference.argmax(axis=-1) == logits.argmax(axis=-1)
    shares: npt.NDArray[np.float64] = same.reshape(len(same), -1).mean(axis=1)
    return shares
