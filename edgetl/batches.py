"""Images in batches: decoded by threads, a little ahead of the network, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetl.augment import Augmentation
from edgetl.data import Sample
from edgetl_runtime.manifest import Normalize, Preprocess
from edgetl_runtime.preprocess import load_image, preprocess

__all__ = ["Normalizer", "evaluation_batches", "training_batches"]

Pixels = npt.NDArray[np.uint8]

_BATCHES_AHEAD = 3


class Normalizer:
    """uint8 (N, H, W, 3) to ``(pixel / 255 - mean) / std``: float32 (N, 3, H, W), channels last in memory."""

    def __init__(self, normalize: Normalize, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(normalize.mean, device=device) * 255
        self._std = torch.tensor(normalize.std, device=device) * 255

    def __call__(self, pixels: Tensor) -> Tensor:
        return ((pixels.to(self._device, non_blocking=True).float() - self._mean) / self._std).permute(0, 3, 1, 2)


def evaluation_batches(samples: Sequence[Sample], spec: Preprocess, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 (N, H, W, 3) and labels (N,) int64, in the order of the samples, as the device will see them."""

    def read(index: int) -> Pixels:
        return preprocess(samples[index].source, spec)

    return _batches(samples, [*range(len(samples))], read, batch_size)


def training_batches(
    samples: Sequence[Sample], spec: Preprocess, batch_size: int, *, augment: Augmentation, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 (N, H, W, 3) and labels (N,) int64, shuffled and augmented: the same for the same seed and epoch.

    A last batch of one image is left out: batch normalisation cannot train on it.
    """

    def read(index: int) -> Pixels:
        image = load_image(samples[index].source)
        return np.asarray(augment(image, spec, np.random.default_rng((seed, epoch, index))))

    order = np.random.default_rng((seed, epoch)).permutation(len(samples)).tolist()
    return _batches(samples, order[:-1] if len(order) % batch_size == 1 else order, read, batch_size)


def _batches(
    samples: Sequence[Sample], order: list[int], read: Callable[[int], Pixels], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    ahead: deque[tuple[list[int], list[Future[Pixels]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        try:
            for part in [*parts, *[None] * _BATCHES_AHEAD]:
                if part is not None:
                    ahead.append((part, [pool.submit(read, index) for index in part]))
                if part is None or len(ahead) > _BATCHES_AHEAD:
                    if not ahead:
                        return
                    indices, images = ahead.popleft()
                    pixels = torch.from_numpy(np.stack([image.result() for image in images]))
                    yield pixels, torch.tensor([samples[index].label for index in indices])
        finally:  # an image that cannot be read, or a reader that stops early
            pool.shutdown(wait=False, cancel_futures=True)
