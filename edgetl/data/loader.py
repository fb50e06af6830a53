"""Images in batches: decoded once, read by threads a little ahead of the network, in bounded memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import features
from torch import Tensor

from edgetl.data.content import preprocess_unchanged
from edgetl.data.dataset import Sample, contents_of
from edgetl.data.pixel_cache import PixelCache
from edgetl.data.prefetch import in_threads
from edgetl_export.progress import Track, silent
from edgetl_runtime.cache import cache_folder
from edgetl_runtime.errors import OutputError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = ["Normalizer", "Pixels", "Targeting", "ahead", "evaluation_batches", "filled", "margin"]

Rows = npt.NDArray[np.uint8]
Targeting: TypeAlias = Callable[[Sequence[Sample], Preprocess], Tensor]
"""Some samples, and how their pixels are made, to what they should give: (n, ...)."""

_BATCHES_AHEAD = 3
_IMAGES_OF_A_JOB = 8


class Normalizer:
    """Pixels as the network takes them: ``(level / 255 - mean) / std``, float32 (N, C, H, W), channels last in memory.

    Called with uint8 (N, H, W, C), wherever it lies; `levels` takes what `edgetl.data.augment.augmented` gives.
    """

    def __init__(self, normalize: Normalize, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(normalize.mean, device=device)[:, None, None] * 255
        self._std = torch.tensor(normalize.std, device=device)[:, None, None] * 255

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.levels(pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float())

    def levels(self, values: Tensor) -> Tensor:
        """float32 (N, C, H, W), 0..255, on the device."""
        return (values - self._mean) / self._std


class Pixels:
    """Samples as uint8 images of one size, decoded once where there is room to keep them.

    ``train`` images are the centre with a margin around the crop (see `margin`), for augmentation to choose from;
    ``eval`` images are exactly `edgetl_runtime.preprocess.preprocess`. ``labels`` is int64 (n,); `targeting` says what
    some of the images should give, by default their labels.
    Without `cache`, or room for it, every image is decoded each time that it is read: the same pixels, and a note.
    Raises `DataError` for an image that cannot be read or is no longer what it was.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: Preprocess,
        *,
        kind: Literal["train", "eval"],
        targeting: Targeting | None = None,
        cache: bool = True,
        track: Track = silent,
    ) -> None:
        self._samples = tuple(samples)
        self._spec = margin(spec) if kind == "train" else spec
        self.labels = torch.tensor([sample.label for sample in self._samples], dtype=torch.int64)
        self._targeting = targeting
        self._cache: PixelCache | None = None
        self._not_kept: str | None = None
        folder = cache_folder() if cache else None
        if folder is None:
            self._not_kept = "the cache is off"
        elif self._samples:
            try:
                self._cache = PixelCache.open(folder / "pixels", self._key(kind), len(self), self._decode, track=track)
            except OutputError as error:
                self._not_kept = error.what
        self.shape: tuple[int, int, int] = self._cache.shape if self._cache else self._shape()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the cache, so far."""
        if self._cache is None:
            return (f"images are decoded each time they are read: {self._not_kept}",) if self._not_kept else ()
        n = self._cache.repaired
        return (f"{n} images of the cache were damaged, and were decoded again",) if n else ()

    def read(self, indices: Sequence[int]) -> Tensor:
        """uint8 (len(indices), H, W, C)."""
        pixels = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        self._read_into(indices, pixels.numpy())
        return pixels

    def targets(self, indices: Sequence[int]) -> Tensor:
        """What these images should give, (len(indices), ...)."""
        if self._targeting is None:
            return self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return self._targeting([self._samples[index] for index in indices], self._spec)

    def jobs(self, indices: Sequence[int], pixels: Tensor) -> list[partial[Any]]:
        """What threads have to do to `read` these indices into `pixels`; the first gives their targets."""
        rows = pixels.numpy()
        parts = (slice(start, start + _IMAGES_OF_A_JOB) for start in range(0, len(indices), _IMAGES_OF_A_JOB))
        return [
            partial(self.targets, indices),
            *(partial(self._read_into, indices[part], rows[part]) for part in parts),
        ]

    def _read_into(self, indices: Sequence[int], rows: Rows) -> None:
        if self._cache is not None:
            self._cache.read_into(indices, rows)
            return
        for index, row in zip(indices, rows, strict=True):
            np.copyto(row, self._decode(index))

    def _decode(self, index: int) -> Rows:
        sample = self._samples[index]
        return preprocess_unchanged(sample.source, self._spec, content=sample.content, name=sample.name)

    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = self._decode(0).shape if self._samples else (*self._spec.crop, self._spec.channels)
        return height, width, channels

    def _key(self, kind: str) -> str:
        decoder = PIL.__version__, features.version_feature("libjpeg_turbo"), features.version_codec("jpg")
        digest = hashlib.sha256(f"{kind} {self._spec!r} {decoder}\n".encode())
        digest.update("\n".join(contents_of(self._samples)).encode())
        return digest.hexdigest()


def margin(spec: Preprocess) -> Preprocess:
    """As much around the crop as the resized image has on all sides: a centre from which the crop is the centre.

    A multiple of 4 more than the crop, because offsets are half of what is left over, rounded to even: only so are
    two crops the same as one.
    """
    height, width = (size + max(0, least - size) // 4 * 4 for size, least in zip(spec.crop, spec.covered, strict=True))
    return dataclasses.replace(spec, crop=(height, width))


def ahead(
    pixels: Pixels, batches: Iterable[Sequence[int]], *, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor, Sequence[int]]]:
    """Pixels uint8 (B, H, W, C), targets (B, ...) and the indices, for each batch of indices, in the order given.

    Threads read a few batches ahead; with `pin` into page-locked memory, from where a GPU takes them while it works.
    An image that cannot be read raises `DataError` when its batch is due.
    """
    parts = ((batch, torch.empty((len(batch), *pixels.shape), dtype=torch.uint8, pin_memory=pin)) for batch in batches)
    for (batch, read), done in in_threads(parts, lambda part: pixels.jobs(*part), ahead=_BATCHES_AHEAD):
        yield read, done[0], batch


def filled(pixels: Tensor, size: int, device: torch.device) -> Tensor:
    """`pixels` (n, H, W, C), for a GPU with the last image repeated until there are `size`.

    For every new number of images cuDNN chooses and builds its kernels anew: 2 s for MobileNetV2 forward, 7 s for a
    step of its training (H100, PyTorch 2.11).
    """
    missing = size - len(pixels)
    if device.type != "cuda" or missing <= 0:
        return pixels
    return torch.cat((pixels, pixels[-1:].expand(missing, -1, -1, -1)))


def evaluation_batches(pixels: Pixels, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `pixels` in their order: uint8 (B, H, W, C) and targets (B, ...)."""
    order = range(len(pixels))
    for read, targets, _ in ahead(pixels, (order[start : start + batch_size] for start in order[::batch_size])):
        yield read, targets
