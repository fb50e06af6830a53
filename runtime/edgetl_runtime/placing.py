"""Where a photo lies in the tensor that was made of it: what resizing goes by, and what maps boxes and masks back.

Coordinates are those of areas: the pixel in column x covers x to x + 1, and its centre is x + 0.5. Pillow resizes so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgetl_runtime.errors import ImageError, UsageError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import MODES, Preprocess

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MOST_PIXELS", "Placed", "place"]

# Pillow's own limit, also for what it does not read from files and for what is resized: a line of 1 x 10,000 pixels
# would take gigabytes.
MOST_PIXELS = 2 * 89_478_485


@dataclass(frozen=True)
class Placed:
    """Where a photo lies in a tensor; all sizes and places in whole pixels.

    ``photo`` is (width, height) of the upright photo, ``resized`` what it was resized to, ``tensor`` what the tensor
    has. There the upper left corner of the resized photo is at ``left``, ``top``: below zero where it was cropped,
    above where it has a border.
    """

    photo: tuple[int, int]
    resized: tuple[int, int]
    left: int
    top: int
    tensor: tuple[int, int]

    def to_photo(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Boxes (..., 4) as left, top, right, bottom in pixels of the tensor, in pixels of the photo; cut at its edges.

        Points (..., 2) as x, y go the same way.
        """
        found, scale, offset = self._maps(boxes)
        limit = np.array(self.photo * (found.shape[-1] // 2), np.float64)
        return np.clip((found - offset) / scale, 0.0, limit).astype(np.float32)

    def to_tensor(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Boxes (..., 4), or points (..., 2), in pixels of the photo, in pixels of the tensor; not cut at its edges."""
        found, scale, offset = self._maps(boxes)
        return (found * scale + offset).astype(np.float32)

    def positions(self, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Where the centres of the photo's pixels lie in a map of `shape` = (height, width) that covers the tensor.

        Rows (H,) and columns (W,) of the photo, in pixels of the map, 0.0 for the centre of its first one. What was
        cropped away lies outside.
        """
        rows, columns = (
            ((np.arange(self.photo[axis]) + 0.5) * self.resized[axis] / self.photo[axis] + (self.left, self.top)[axis])
            * (size / self.tensor[axis])
            - 0.5
            for axis, size in ((1, shape[0]), (0, shape[1]))
        )
        return rows, columns

    def mask(self, values: npt.NDArray[np.uint8], *, outside: int) -> npt.NDArray[np.uint8]:
        """A mask (h, w) uint8 that covers the tensor, as one of the photo (H, W): of every pixel the nearest value.

        Pixels that were cropped away are `outside`.
        """
        rows, columns = self.positions((values.shape[0], values.shape[1]))
        nearest_row, inside_rows = _nearest(rows, values.shape[0])
        nearest_column, inside_columns = _nearest(columns, values.shape[1])
        # One axis after the other: whole rows are copied, eight times as fast as one index for both.
        found: npt.NDArray[np.uint8] = values.take(nearest_column, axis=1).take(nearest_row, axis=0)
        found[~inside_rows] = outside
        found[:, ~inside_columns] = outside
        return found

    def values(self, values: npt.NDArray[np.float32], *, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Values (h, w, C) float32 that cover the tensor, interpolated bilinearly at the pixels of the photo (H, W, C).

        `rows` are those of the photo that are wanted: all at once may not fit into memory. Beyond the centres of the
        outermost values, and where the photo was cropped away, the nearest value stands.
        """
        heights, widths = self.positions((values.shape[0], values.shape[1]))
        above, below, share = _between(heights[rows], values.shape[0])
        between = values[above] + share[:, np.newaxis, np.newaxis] * (values[below] - values[above])
        before, behind, share = _between(widths, values.shape[1])
        start = between[:, before]
        found: npt.NDArray[np.float32] = start + share[np.newaxis, :, np.newaxis] * (between[:, behind] - start)
        return found

    def _maps(
        self, boxes: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        found = np.asarray(boxes, np.float64)
        if found.ndim < 1 or found.shape[-1] not in (2, 4):
            raise UsageError(f"boxes have 4 numbers each, points 2; given {list(found.shape)}", fix="(n, 4) or (n, 2)")
        repeats = found.shape[-1] // 2
        scale = np.tile(np.divide(self.resized, self.photo), repeats)
        return found, scale, np.tile(np.array([self.left, self.top], np.float64), repeats)


def place(photo: tuple[int, int], spec: Preprocess) -> Placed:
    """Where `spec` puts an upright photo of (width, height).

    In mode "crop" sizes and offsets are torchvision's: the other side is truncated, the crop offset is rounded half
    to even. Raises `ImageError` for a photo that would become too large, `UsageError` for sizes that none has.
    """
    height, width = spec.crop
    if min(*spec.covered, height, width) < 1 or height * width * max(1, spec.channels / 3) > MOST_PIXELS:
        raise UsageError(
            f"cannot resize to {spec.resize} and crop to {list(spec.crop)} pixels", fix="positive sizes, as the model's"
        )
    if spec.mode == "stretch":
        return Placed(photo, (width, height), 0, 0, (width, height))
    if spec.mode not in MODES:
        raise UsageError(f"unknown mode {spec.mode!r:.60}", fix=f"one of: {', '.join(MODES)}")
    if spec.mode == "letterbox":
        resized = _largest_within(photo, (width, height))
        return Placed(photo, resized, (width - resized[0]) // 2, (height - resized[1]) // 2, (width, height))
    resized = _covering(photo, spec.covered)
    left, top = (_centred(inner, outer) for inner, outer in zip(resized, (width, height), strict=True))
    return Placed(photo, resized, left, top, (width, height))


def _covering(photo: tuple[int, int], covered: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a photo of (width, height) made as small as covers `covered` = (height, width)."""
    (width, height), (rows, columns) = photo, covered
    if rows * width >= columns * height:
        new_width, new_height = int(rows * width / height), rows
    else:
        new_width, new_height = columns, int(columns * height / width)
    if photo != (new_width, new_height) and new_width * new_height > MOST_PIXELS:
        raise ImageError(
            f"an image of {width}x{height} pixels is too long and thin: resized it has {new_width}x{new_height}",
            fix="crop it first",
        )
    return new_width, new_height


def _largest_within(photo: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The sides of the largest image of the photo's proportions, each at least a pixel."""
    scale = min(room[0] / photo[0], room[1] / photo[1])
    width, height = (min(most, max(1, round(side * scale))) for side, most in zip(photo, room, strict=True))
    return width, height


def _centred(inner: int, outer: int) -> int:
    """Where what is `inner` pixels long begins in what is `outer` pixels long, as torchvision's center_crop has it."""
    return (outer - inner) // 2 if outer > inner else -round((inner - outer) / 2.0)


def _nearest(positions: npt.NDArray[np.float64], length: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The nearest of `length` values, and which positions lie within their areas."""
    index = np.floor(positions + 0.5).astype(np.intp)
    return np.clip(index, 0, length - 1), (index >= 0) & (index < length)


def _between(
    positions: npt.NDArray[np.float64], length: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The values before and behind each position, and how far it is on the way between them (0..1)."""
    inside = np.clip(positions, 0.0, length - 1)
    before = np.floor(inside).astype(np.intp)
    return before, np.minimum(before + 1, length - 1), (inside - before).astype(np.float32)
