"""How far apart two outputs are: the measures that self-test and verification share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than this module
    import numpy.typing as npt

__all__ = ["decided_otherwise", "least_sqnr_db", "same_label", "sqnr_db"]

_TIE = 1e-3
"""Of the span of an image's logits: two labels that are nearer to each other than this may change places when sums are
taken in another order."""


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


def decided_otherwise(alone: npt.NDArray[Any], together: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """By image whether logits (n, ..., classes) of the same model decide otherwise: another label, at any place of a
    map, that is no tie in both, or values that are not finite."""
    first, second = alone.argmax(axis=-1)[..., None], together.argmax(axis=-1)[..., None]

    def gap(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        apart = np.take_along_axis(logits, first, -1) - np.take_along_axis(logits, second, -1)
        span = np.maximum(np.ptp(logits, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        shares: npt.NDArray[Any] = np.abs(apart) / span
        return shares

    with np.errstate(invalid="ignore"):
        near = np.maximum(gap(alone), gap(together)) <= _TIE  # False for what is not finite
    apart = ((first != second) & ~near)[..., 0] | ~np.isfinite(together).all(axis=-1)
    images: npt.NDArray[np.bool_] = np.any(apart.reshape(len(apart), -1), axis=1)
    return images


def same_label(reference: npt.NDArray[Any], logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """By image the share (0..1) of its rows of logits (n, ..., classes) whose largest is the same.

    A classifier has one row for an image, a map one for each place. Whether they are finite is not asked.
    """
    same = reference.argmax(axis=-1) == logits.argmax(axis=-1)
    shares: npt.NDArray[np.float64] = same.reshape(len(same), -1).mean(axis=1)
    return shares
