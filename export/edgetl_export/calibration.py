"""Real images as calibration samples: streamed in bounded memory, fingerprinted, shared by all targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, file_content, preprocess
from edgetl_runtime.streaming import map_ahead

__all__ = ["CalibrationSamples"]

MIN_SAMPLES = 8


@dataclass(frozen=True)
class CalibrationSamples:
    """Images that activation ranges are measured on. Nothing is ever calibrated on random data.

    Iterating gives uint8 (1, H, W, C) for each, again and again.

    Args:
        sources: Photos like those that the device will see: paths, bytes, PIL images, uint8 arrays (H, W, C).
        preprocess: How they become tensors; that of the `Source`.

    Raises:
        DataError: There are fewer than `MIN_SAMPLES`; and, while iterating, one cannot be read.
    """

    sources: Sequence[ImageSource]
    preprocess: Preprocess

    def __post_init__(self) -> None:
        if len(self.sources) < MIN_SAMPLES:
            raise DataError(
                f"{len(self.sources)} calibration images are too few to measure activation ranges on",
                fix=f"give at least {MIN_SAMPLES}; 100 to 300 are usual",
            )

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images as they are given, in order, and over how they are preprocessed."""
        digest = hashlib.sha256(repr(self.preprocess).encode())
        for source in self.sources:
            content = file_content(source)
            if not isinstance(content, bytes):
                content = np.asarray(content).tobytes()
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Tensors (1, H, W, C) uint8 in the order of the sources; decoding runs a little ahead."""
        for future in map_ahead(partial(preprocess, spec=self.preprocess), self.sources, workers=2):
            yield future.result()[None].copy()
