"""The golden samples of a bundle: images, what preprocessing made of them, and what the original answered."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import COPY_AGAIN
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Golden

if TYPE_CHECKING:
    from edgetl_runtime.bundle import Bundle

__all__ = ["GoldenSamples", "read_golden"]

_LARGEST_GOLDEN = 2**28
_NPY_HEADER = 2**14
"""Bytes. What an .npz may have in front of an array's own."""
_NPZ_FAILURES = (
    KeyError,
    TypeError,
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,  # encrypted
    NotImplementedError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class GoldenSamples:
    """Golden samples in order: PNG or .npy files, what `preprocess` made of them, and the original model's logits.

    ``tensors`` is (n, H, W, C) uint8, ``logits`` (n, classes) float32.
    """

    names: tuple[str, ...]
    images: tuple[bytes, ...]
    tensors: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]


def read_golden(bundle: Bundle) -> GoldenSamples | None:
    """The golden samples of `bundle`, None when it has none. Raises `BundleError` when they are damaged."""
    golden = bundle.manifest.golden
    if golden is None:
        return None
    images = tuple(bundle.read_entry(entry) for entry in golden.images)
    tensors, logits = _expected(bundle, golden)
    names = tuple(Path(entry.path).name for entry in golden.images)
    sound = tensors.dtype == np.uint8 and tensors.ndim == 4 and logits.dtype == np.float32 and logits.ndim == 2
    if not sound or not len(names) == len(tensors) == len(logits) == golden.n:
        raise BundleError(
            f"{golden.expected.path} in {bundle.path} holds tensors {tensors.dtype} {list(tensors.shape)} and "
            f"logits {logits.dtype} {list(logits.shape)} for {golden.n} golden samples",
            fix="export the bundle again",
        )
    return GoldenSamples(names, images, tensors, logits)


def _expected(bundle: Bundle, golden: Golden) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Tensors and logits of the golden samples; never larger than the manifest lets them be."""
    content = bundle.read_entry(golden.expected)
    spec = bundle.manifest.preprocess
    values = 4 * math.prod(abs(size) for size in bundle.manifest.output.shape[1:])
    sizes = {"tensors": golden.n * math.prod(spec.crop) * spec.channels, "logits": golden.n * values}
    limits = {name: min(size, _LARGEST_GOLDEN) + _NPY_HEADER for name, size in sizes.items()}
    arrays: list[npt.NDArray[Any]] = []
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name, limit in limits.items():
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > limit:
                    raise ValueError(f"{name} has {entry.file_size} bytes, more than the {limit} it may have")
                with archive.open(entry) as file:
                    arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    except _NPZ_FAILURES as error:
        raise BundleError(f"{golden.expected.path} in {bundle.path} is damaged: {error}", fix=COPY_AGAIN) from None
    tensors, logits = arrays
    return tensors, logits
