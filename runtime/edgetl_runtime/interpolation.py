"""Bilinear interpolation of maps as products with two thin matrices: exact, and as fast as the machine multiplies.

A map (h, w) at the positions (rows, columns) is ``R @ map @ C.T``, where every row of R and C has at most two values
that are not 0. Positions are in pixels of the map, 0.0 is the centre of its first one (half-pixel centres, as torch's
``interpolate(mode="bilinear", align_corners=False)`` and every engine have them). Beyond the outermost centres the
nearest value stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["centres", "interpolated", "labels_at"]

_ROWS_AT_ONCE = 32
"""So few that the values of a strip stay in the processor's cache."""


def centres(length: int, n: int) -> npt.NDArray[np.float64]:
    """Where the centres of `length` pixels lie in a map of `n` that covers the same, (length,)."""
    return (np.arange(length, dtype=np.float64) + 0.5) * (n / length) - 0.5


def interpolated(
    values: npt.NDArray[np.float32], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """A map (h, w, C) float32, finite, at all crossings of `rows` (H,) and `columns` (W,): (H, W, C) float32."""
    wide = _widened(values, columns)
    found = _weights(rows, values.shape[0]) @ wide
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def labels_at(
    logits: npt.NDArray[np.float32], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """The label of the largest logit at all crossings of `rows` (H,) and `columns` (W,), both rising.

    Args:
        logits: (h, w, C) float32, finite; C at most 256.
        rows: In pixels of the map.
        columns: Likewise.

    Returns:
        (H, W) uint8: the argmax of what `interpolated` gives; between equal logits the first label wins. The values
        themselves are never there as a whole.
    """
    height, n_labels = logits.shape[0], logits.shape[2]
    found = np.zeros((len(rows), len(columns)), np.uint8)
    if n_labels == 1:
        return found
    weights = _weights(rows, height)
    # Of two labels it is the second where their difference exceeds 0: one map to interpolate instead of two.
    wide = _widened(logits if n_labels > 2 else logits[:, :, 1:] - logits[:, :, :1], columns)
    first = np.clip(np.floor(rows), 0, height - 1).astype(np.intp)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        strip = slice(start, min(start + _ROWS_AT_ONCE, len(rows)))
        needed = slice(first[strip.start], min(first[strip.stop - 1] + 2, height))
        if n_labels == 2:
            np.greater(weights[strip, needed] @ wide[0, needed], 0.0, out=found[strip].view(np.bool_))
        else:
            _take_largest(weights[strip, needed], wide[:, needed], found[strip])
    return found


def _take_largest(
    weights: npt.NDArray[np.float32], wide: npt.NDArray[np.float32], found: npt.NDArray[np.uint8]
) -> None:
    """Write to `found` (n, W), which is 0, the index of the largest of the C maps ``weights @ wide[c]``."""
    best = weights @ wide[0]
    values, larger = np.empty_like(best), np.empty(best.shape, np.bool_)
    for label in range(1, len(wide)):
        np.matmul(weights, wide[label], out=values)
        np.greater(values, best, out=larger)
        np.copyto(found, np.uint8(label), where=larger)
        np.maximum(best, values, out=best)


def _widened(values: npt.NDArray[np.float32], columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(h, w, C) at `columns` of every row: (C, h, W)."""
    height, width, channels = values.shape
    maps = np.ascontiguousarray(values.transpose(2, 0, 1)).reshape(-1, width)
    return (maps @ _weights(columns, width).T).reshape(channels, height, len(columns))


def _weights(positions: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float32]:
    """(n, length) float32: how much each of `length` values counts at each of n positions."""
    inside = np.clip(positions, 0.0, length - 1)
    before = np.floor(inside).astype(np.intp)
    share = (inside - before).astype(np.float32)
    weights = np.zeros((len(positions), length), np.float32)
    row = np.arange(len(positions))
    weights[row, before] = 1.0 - share
    weights[row, np.minimum(before + 1, length - 1)] += share
    return weights
