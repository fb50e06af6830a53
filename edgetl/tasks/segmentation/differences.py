"""Where the masks of a variant differ from the original's: along boundaries, or in whole regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl.tasks.segmentation.metric import MaskMetric

__all__ = ["NEAR", "Differences", "differences_of", "near_boundary"]

NEAR = 2
"""Pixels from a boundary of the original's mask: two networks that agree on what is there may differ so far."""


@dataclass(frozen=True)
class Differences:
    """Of ``photos`` the share of pixels that differ, the share of those that lie at a boundary, and each photo's share.

    ``at_boundary`` is 1 where no pixel differs.
    """

    photos: int
    differ: float
    at_boundary: float
    by_photo: tuple[float, ...]


def differences_of(original: MaskMetric, variant: MaskMetric) -> Differences:
    """Over the photos whose masks both have kept, at the network's size."""
    differ = near = pixels = 0
    by_photo = []
    for index in range(min(original.kept, variant.kept)):
        before = original.mask(index)
        different = before != variant.mask(index)
        count = int(np.count_nonzero(different))
        if count:
            near += int(np.count_nonzero(different & near_boundary(before)))
        differ, pixels = differ + count, pixels + before.size
        by_photo.append(count / before.size)
    return Differences(len(by_photo), differ / max(1, pixels), near / differ if differ else 1.0, tuple(by_photo))


def near_boundary(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(H, W): where another label lies within `NEAR` pixels, in a square around each."""
    most, least = mask, mask
    for axis in (0, 1):
        most, least = _over(most, axis, np.maximum), _over(least, axis, np.minimum)
    near: npt.NDArray[np.bool_] = most != least
    return near


def _over(values: npt.NDArray[np.uint8], axis: int, pick: np.ufunc) -> npt.NDArray[np.uint8]:
    """The largest or smallest of the values up to `NEAR` pixels before and behind, along an axis."""
    padding = [(NEAR, NEAR) if along == axis else (0, 0) for along in (0, 1)]
    padded = np.pad(values, padding, mode="edge")
    length = values.shape[axis]
    parts = [padded.take(np.arange(start, start + length), axis=axis) for start in range(2 * NEAR + 1)]
    found: npt.NDArray[np.uint8] = pick.reduce(parts)
    return found
