"""Anchors that suit a data set: two sizes an octave, in the proportions that its boxes have."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fit_anchors"]

_SIZES = (2.5, 3.5)
"""Sizes of a level's anchors in strides: with half an octave between them some anchor overlaps any square by 0.7."""
_STRIDES, _FINE, _LARGEST = (16, 32), 8, 512
_LOW, _HIGH = 0.05, 0.95
_RATIOS = (0.12, 0.5, 0.88)
"""Shares of the boxes whose proportions are below an anchor's."""
_LEAST_SPREAD, _MOST_SPREAD = 1.35, 4.0
"""Of the outer proportions against the middle one."""


def fit_anchors(sides: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], crop: tuple[int, int]) -> dict[str, Any]:
    """Settings of a head: ``strides`` of the backbone's maps, ``shapes`` of the anchors and ``steps`` of each level.

    Args:
        sides: (n, 2) width and height of boxes, in pixels of the network's input.
        labels: (n,) their labels; each label counts the same, however many boxes it has.
        crop: (height, width) of the input.
    """
    if not len(sides):
        sides, labels = np.array([[crop[1] / 4, crop[0] / 4]]), np.zeros(1, np.int64)
    weights = 1.0 / np.bincount(labels)[labels]
    sizes = np.sqrt(sides.prod(axis=1))
    low, high = _quantile(sizes, weights, _LOW), _quantile(sizes, weights, _HIGH)
    strides = list(_STRIDES) if low >= _SIZES[0] * _STRIDES[0] * 0.9 else [_FINE, *_STRIDES]
    levels = list(strides)
    while _SIZES[-1] * levels[-1] < high and levels[-1] < min(_LARGEST, max(crop)):
        levels.append(levels[-1] * 2)
    ratios = _ratios(np.log(sides[:, 0] / sides[:, 1]), weights)
    height, width = crop
    shapes = [
        [
            [round(size * stride * ratio**0.5 / width, 5), round(size * stride / ratio**0.5 / height, 5)]
            for size in _SIZES
            for ratio in ratios
        ]
        for stride in levels
    ]
    return {"strides": strides, "shapes": shapes, "steps": levels}


def _ratios(logs: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> list[float]:
    """Three proportions, width : height."""
    narrow, middle, wide = (_quantile(logs, weights, share) for share in _RATIOS)
    least, most = np.log(_LEAST_SPREAD), np.log(_MOST_SPREAD)
    narrow = middle - np.clip(middle - narrow, least, most)
    wide = middle + np.clip(wide - middle, least, most)
    return [float(np.exp(value)) for value in (narrow, middle, wide)]


def _quantile(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], share: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= share * weights.sum() * (1 - 1e-12)
    return float(values[order][int(reached.argmax())])
