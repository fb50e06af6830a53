"""What is seen of one layer's output over several images: how near it is to the original's, and what it lacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgetl.verify.report import SQNR_LIMIT_DB
from edgetl_runtime.comparison import sqnr_db

__all__ = ["TensorStats"]

Floats = npt.NDArray[np.float32]

_BEYOND = 0.05
"""Of the original's range: what is this far outside of the variant's is clipped, and no rounding."""
_LIVELY = 0.1
"""Of the original's range: a channel that varies more than this and is constant in the variant is dead there."""

_MOST = 0.5
_MANY = 8


class TensorStats:
    """Sums over the images that were added; at least one before anything is read."""

    def __init__(self) -> None:
        self._decibels: list[float] = []
        self._clipped: list[float] = []
        self._non_finite: list[float] = []
        self._noise: list[npt.NDArray[np.float64]] = []
        self._own: npt.NDArray[np.float64] | None = None
        self._original: npt.NDArray[np.float64] | None = None

    def add(self, original: Floats, own: Floats) -> None:
        """One image: both (1, channels, ...) float32 of one shape; the original is finite."""
        finite = np.isfinite(own)
        self._decibels.append(float(np.clip(sqnr_db(original, own), -SQNR_LIMIT_DB, SQNR_LIMIT_DB)))
        self._non_finite.append(1.0 - float(finite.mean()))
        own_ends, original_ends = _ends(np.where(finite, own, 0.0)), _ends(original)
        self._own = own_ends if self._own is None else _wider(self._own, own_ends)
        self._original = original_ends if self._original is None else _wider(self._original, original_ends)
        self._noise.append(_noise(original, np.where(finite, own, 0.0)))
        self._clipped.append(_share_clipped(original, own) if finite.all() else 0.0)

    @property
    def sqnr_db(self) -> float:
        """Mean over images, each within `SQNR_LIMIT_DB`."""
        return float(np.mean(self._decibels))

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest finite value of the variant."""
        assert self._own is not None
        return float(self._own[0].min()), float(self._own[1].max())

    @property
    def original_range(self) -> tuple[float, float]:
        """Least and greatest value of the original."""
        assert self._original is not None
        return float(self._original[0].min()), float(self._original[1].max())

    @property
    def clipped(self) -> float:
        """Share of values at an end of the variant's range where the original's are clearly beyond it."""
        return float(np.mean(self._clipped))

    @property
    def non_finite(self) -> float:
        """Share of the variant's values that are NaN or infinite."""
        return float(np.mean(self._non_finite))

    @property
    def dead_channels(self) -> tuple[int, ...]:
        """Channels that are constant in the variant, over all places and images, and lively in the original.

        None unless they are most of what differs: elsewhere a channel may die of what is wrong with its inputs.
        """
        assert self._own is not None
        assert self._original is not None
        low, high = self.original_range
        constant = self._own[1] == self._own[0]
        lively = self._original[1] - self._original[0] > _LIVELY * (high - low)
        dead, noise = constant & lively, np.sum(self._noise, axis=0)
        if noise[dead].sum() < _MOST * noise.sum():
            return ()
        return tuple(int(channel) for channel in np.flatnonzero(dead))


def _ends(values: Floats) -> npt.NDArray[np.float64]:
    """(2, channels): least and greatest value of each."""
    by_channel = values.reshape(values.shape[1] if values.ndim > 1 else 1, -1)
    return np.stack([by_channel.min(axis=1), by_channel.max(axis=1)]).astype(np.float64)


def _noise(original: Floats, own: Floats) -> npt.NDArray[np.float64]:
    """(channels,) power of what differs."""
    difference = (original.astype(np.float64) - own).reshape(original.shape[1] if original.ndim > 1 else 1, -1)
    power: npt.NDArray[np.float64] = np.square(difference).sum(axis=1)
    return power


def _wider(ends: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([np.minimum(ends[0], other[0]), np.maximum(ends[1], other[1])])


def _share_clipped(original: Floats, own: Floats) -> float:
    low, high = own.min(), own.max()
    margin = _BEYOND * (original.max() - original.min())
    above = (own == high) & (original > high + margin)
    below = (own == low) & (original < low - margin)
    # One value is always the greatest: an end is where many meet.
    count = sum(int(side.sum()) for side in (above, below) if side.sum() >= _MANY)
    return count / own.size
