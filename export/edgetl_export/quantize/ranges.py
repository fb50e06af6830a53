"""Activation ranges from a histogram that grows with the data and not with the number of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram", "Range"]

_MAX_BINS = 4096
_LEVELS = 255
"""Steps of an 8-bit grid."""


@dataclass(frozen=True)
class Range:
    """What an 8-bit activation can hold: real values from ``low`` <= 0 to ``high`` >= 0."""

    low: float
    high: float


@dataclass
class Histogram:
    """Counts of values in bins of equal width whose edges are multiples of the width.

    When the data outgrow the bins, pairs of them are merged: the width doubles, no count is ever smeared. ``low`` and
    ``high`` are the exact ends of the data and of zero.
    """

    width: float = 0.0
    first: int = 0
    low: float = 0.0
    high: float = 0.0
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, values: npt.NDArray[np.float32], weights: npt.NDArray[np.float64] | None = None) -> None:
        """Count finite `values` of any shape, each as much as its weight (as many as there are values)."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.width == 0.0:
            span = max(high - low, abs(high), abs(low), 1e-12)
            self.width = 2.0 ** math.ceil(math.log2(span / (_MAX_BINS / 4)))
            self.first = math.floor(low / self.width)
        self._cover(low, high)
        index = np.floor(values.ravel() / np.float32(self.width)).astype(np.int64) - self.first
        self.counts += np.bincount(index, weights, minlength=len(self.counts))

    def _cover(self, low: float, high: float) -> None:
        while True:
            first = min(self.first, math.floor(low / self.width))
            last = max(self.first + len(self.counts) - 1, math.floor(high / self.width))
            if last - first < _MAX_BINS:
                break
            self._coarsen()
        grown = np.zeros(last - first + 1)
        offset = self.first - first
        grown[offset : offset + len(self.counts)] = self.counts
        self.first, self.counts = first, grown

    def _coarsen(self) -> None:
        """Twice the width; bins 2k and 2k + 1 become bin k."""
        index = (np.arange(len(self.counts)) + self.first) // 2
        first = self.first // 2
        merged = np.zeros(int(index[-1]) - first + 1 if len(index) else 0)
        np.add.at(merged, index - first, self.counts)
        self.width, self.first, self.counts = 2 * self.width, first, merged

    def full_range(self) -> Range:
        """From the least to the greatest value, zero included."""
        return Range(self.low, self.high)

    def percentile_range(self, percent: float = 99.99) -> Range:
        """The middle `percent` of what was counted, zero included."""
        if not self.counts.any():
            return self.full_range()
        below = np.cumsum(self.counts) / self.counts.sum()
        outside = (1.0 - percent / 100.0) / 2.0
        first, last = np.searchsorted(below, outside), np.searchsorted(below, 1.0 - outside)
        low, high = (first + self.first) * self.width, (last + self.first + 1) * self.width
        return Range(min(0.0, max(low, self.low)), max(0.0, min(high, self.high)))

    def mse_range(self) -> Range:
        """The range whose 8-bit grid has the least mean squared error on what was counted.

        Both ends shrink together first, then each by itself; zero is always inside, since padding needs it exact
        (Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks", NeurIPS 2019,
        minimise the same error in closed form for assumed distributions; here the distribution is measured).
        """
        used = np.flatnonzero(self.counts)
        centres = (used.astype(np.float64) + self.first + 0.5) * self.width
        weights = self.counts[used]
        # Not below a tenth: images that are rare here may be usual on the device.
        shrink = np.linspace(1.0, 0.1, 91)
        best = _least_error(centres, weights, self.low * shrink, self.high * shrink)
        fine = np.linspace(1.15, 0.7, 46)
        for _ in range(2):
            tops = np.minimum(best.high * fine, self.high)
            best = _least_error(centres, weights, np.full_like(fine, best.low), tops)
            bottoms = np.maximum(best.low * fine, self.low)
            best = _least_error(centres, weights, bottoms, np.full_like(fine, best.high))
        return best


def _least_error(
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    lows: npt.NDArray[np.float64],
    highs: npt.NDArray[np.float64],
) -> Range:
    """The pair (low, high) among the candidates with the least weighted squared error over `values`."""
    scale = np.maximum(highs - lows, 1e-12)[:, None] / _LEVELS
    zero_point = np.round(-lows[:, None] / scale)
    level = np.clip(np.round(values[None] / scale) + zero_point, 0, _LEVELS)
    error = (((level - zero_point) * scale - values[None]) ** 2) @ weights
    best = int(np.argmin(error))
    return Range(float(lows[best]), float(highs[best]))
