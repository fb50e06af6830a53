"""Masks on disk: the label of every pixel of a photo, read when it is needed and not before."""

from __future__ import annotations

import io
import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.data.image_files import ImageFile
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import open_regular
from edgetl_runtime.placing import MOST_PIXELS

__all__ = ["IGNORED", "ColourTable", "Mask", "MaskFile", "MaskOutlines", "Shape", "fill_outline", "mask_pixels"]

IGNORED = 255
"""In a mask: a pixel that nobody judges and nothing is learned of."""

_KEPT_BYTES = 2**26
"""Of masks that were read last: every variant is judged on the same few photos, one after the other."""
_OWN_PAGES = 2**16
_LOSSY = ("JPEG", "MPO")

Polygon: TypeAlias = "Sequence[tuple[float, float]]"
"""The corners of an outline, x and y in pixels from the upper left corner of the photo."""
Shape: TypeAlias = "Polygon | npt.NDArray[np.bool_]"
"""A part of an object: its outline, or where it is, (height, width)."""


class Mask:
    """The labels of a photo's pixels. `numpy.asarray` reads them: ``target`` of a sample is one of these."""

    @property
    def where(self) -> str:
        """For errors: the path, or what stands for it."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        raise NotImplementedError

    def read(self) -> npt.NDArray[np.uint8]:
        """(height, width): the index of a label for every pixel, or `IGNORED`. Raises `DataError`."""
        raise NotImplementedError

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many pixels each index has, up to the last that occurs; `IGNORED` ones are left out."""
        pixels = mask_pixels(self).reshape(-1)
        counts = np.bincount(pixels, minlength=IGNORED + 1)[:IGNORED]
        return tuple(counts[: int(np.flatnonzero(counts).max(initial=-1)) + 1].tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return mask_pixels(self).astype(np.uint8 if dtype is None else dtype, copy=bool(copy))


@dataclass(frozen=True, eq=False)
class ColourTable:
    """Which colour of a mask is which label: ``indices`` by red, green and blue; `IGNORED` for what does not count."""

    indices: Mapping[tuple[int, int, int], int]

    @cached_property
    def _lookup(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Colours as one number each, sorted, and their labels."""
        codes = np.array([(r << 16) | (g << 8) | b for r, g, b in self.indices], np.uint32)
        order = np.argsort(codes)
        return codes[order], np.array(list(self.indices.values()), np.uint8)[order]

    def labels_of(self, pixels: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.uint8]:
        """(H, W) of (H, W, 3). Raises `DataError` for a colour that is not in the table; `where` names the mask."""
        wide = pixels.astype(np.uint32)
        codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        known, labels = self._lookup
        place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        strange = known[place] != codes
        if strange.any():
            row, column = (int(axis[0]) for axis in np.nonzero(strange))
            colour = ", ".join(str(int(level)) for level in pixels[row, column])
            raise DataError(
                f"{where} has the colour {colour} at x = {column}, y = {row}, which is no label's",
                fix="add it to the colour table, or save masks without smoothing or JPEG",
            )
        found: npt.NDArray[np.uint8] = labels[place]
        return found


@dataclass(frozen=True, eq=False)
class MaskFile(Mask):
    """An image whose pixels are labels: their values (8 bits, or the indices of a palette), or, with ``colours``, their
    colours. ``labels`` is how many there are."""

    source: ImageFile
    labels: int
    colours: ColourTable | None = None

    @property
    def where(self) -> str:
        """For errors: the path, or what stands for it."""
        return str(self.source)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height), of the file's header."""
        with _opened(self) as image:
            return image.size

    def read(self) -> npt.NDArray[np.uint8]:
        """(height, width). Raises `DataError` for a file that cannot be read, and for values that are no label."""
        with _opened(self) as image:
            if image.format in _LOSSY:
                raise DataError(
                    f"{self.where} is a mask saved as a JPEG, which changes pixels along edges: their labels are lost",
                    fix="export the masks again, as PNG; a JPEG that is saved as PNG now keeps what was lost",
                )
            if self.colours is not None:
                return self.colours.labels_of(np.asarray(image.convert("RGB")), self.where)
            pixels = np.asarray(image)
            if image.mode in ("RGB", "RGBA") and (pixels[..., :3] == pixels[..., :1]).all():
                pixels = pixels[..., 0]  # grey: as some tools save values
            elif image.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise DataError(
                    f"{self.where} is a mask of mode {image.mode}: its colours are not labels by themselves",
                    fix="save masks with one 8-bit value a pixel, or add a colour table: class_dict.csv with lines of "
                    "name,r,g,b",
                )
        values = pixels.astype(np.int64) if pixels.dtype != np.uint8 else pixels
        strange = (values >= self.labels) & (values != IGNORED) | (values < 0)
        if strange.any():
            row, column = (int(axis[0]) for axis in np.nonzero(strange))
            value = int(values[row, column])
            named = f"name every value in labels.txt, one a line; {IGNORED} marks pixels that do not count"
            raise DataError(
                f"{self.where} has the value {value} at x = {column}, y = {row}; there are {self.labels} labels, 0 to "
                f"{self.labels - 1}",
                fix=named
                if 0 <= value < IGNORED
                else f"save masks with the number of its label for every pixel, 0 to "
                f"{IGNORED - 1}, or {IGNORED} where it does not count",
            )
        return values.astype(np.uint8, copy=False)


@dataclass(frozen=True, eq=False)
class MaskOutlines(Mask):
    """Objects by their outlines, on a background of label 0; of objects that overlap the last is on top.

    ``shapes`` are a label and the parts of one object. ``told`` is what errors call the mask.
    """

    photo: tuple[int, int]
    shapes: tuple[tuple[int, tuple[Shape, ...]], ...]
    told: str

    @property
    def where(self) -> str:
        """The file of the outlines."""
        return self.told

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the photo that they were drawn around."""
        return self.photo

    def read(self) -> npt.NDArray[np.uint8]:
        """(height, width)."""
        mask = np.zeros((self.photo[1], self.photo[0]), np.uint8)
        for label, parts in self.shapes:
            for part in parts:
                if isinstance(part, np.ndarray):
                    mask[part] = label
                else:
                    fill_outline(mask, part, label)
        return mask


def fill_outline(mask: npt.NDArray[np.uint8], outline: Polygon, label: int) -> None:
    """Write `label` to the pixels of `mask` (H, W) whose centres are inside of `outline`.

    Inside is where a line from the left crosses the outline an odd number of times.
    """
    corners = np.asarray(outline, np.float64)
    x1, y1 = corners.T
    x2, y2 = np.roll(corners, -1, axis=0).T
    top = int(np.clip(np.ceil(corners[:, 1].min() - 0.5), 0, mask.shape[0]))
    bottom = int(np.clip(np.ceil(corners[:, 1].max() - 0.5), 0, mask.shape[0]))
    left = int(np.clip(np.ceil(corners[:, 0].min() - 0.5), 0, mask.shape[1]))
    right = int(np.clip(np.ceil(corners[:, 0].max() - 0.5), 0, mask.shape[1]))
    if bottom <= top or right <= left:
        return
    centres = np.arange(top, bottom) + 0.5
    row, edge = np.nonzero((y1 <= centres[:, None]) != (y2 <= centres[:, None]))
    crossing = x1[edge] + (centres[row] - y1[edge]) * (x2 - x1)[edge] / (y2 - y1)[edge]
    column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.intp) - left
    crossings = np.zeros((bottom - top, right - left + 1), np.int64)
    np.add.at(crossings, (row, column), 1)
    inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    mask[top:bottom, left:right][inside] = label


class _Kept:
    """Masks that were read last, as many as `_KEPT_BYTES` hold."""

    def __init__(self) -> None:
        self._masks: OrderedDict[int, tuple[Mask, npt.NDArray[np.uint8]]] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def read(self, mask: Mask) -> npt.NDArray[np.uint8]:
        with self._lock:
            if id(mask) in self._masks:  # the mask is kept with its pixels, so that no other gets its id
                self._masks.move_to_end(id(mask))
                return self._masks[id(mask)][1]
        pixels = _apart(mask.read())
        with self._lock:
            if id(mask) not in self._masks and pixels.nbytes <= _KEPT_BYTES:
                self._masks[id(mask)] = mask, pixels
                self._bytes += pixels.nbytes
            while self._bytes > _KEPT_BYTES:
                self._bytes -= self._masks.popitem(last=False)[1][1].nbytes
        return pixels


def _apart(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same, read-only; large ones in pages of their own: what lives long would keep the heap around it in pieces.

    Of 740 photos of 400 x 400 pixels that were 85 MB.
    """
    if pixels.nbytes >= _OWN_PAGES:
        pages = mmap.mmap(-1, pixels.nbytes)
        pages.write(np.ascontiguousarray(pixels).data)
        pixels = np.frombuffer(pages, np.uint8).reshape(pixels.shape)
    pixels.setflags(write=False)
    return pixels


_kept = _Kept()


def mask_pixels(mask: Mask) -> npt.NDArray[np.uint8]:
    """What ``mask.read()`` gives, read-only, without reading it again where it was read lately."""
    return _kept.read(mask)


@contextmanager
def _opened(mask: MaskFile) -> Iterator[Image.Image]:
    """The image, of which only the header was read. What is wrong with it is a `DataError`."""
    try:
        source = mask.source
        opened = open_regular(source) if isinstance(source, Path) else io.BytesIO(source.read_bytes())
        with opened as file, Image.open(file) as image:
            if image.size[0] * image.size[1] > MOST_PIXELS:
                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels are too many")
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the mask {mask.where}: {reason}", fix="save it again, as a PNG") from None
