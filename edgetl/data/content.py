"""What an image is known by: the SHA-256 of its content, wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import DataError, ImageError, UsageError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, file_content, preprocess

__all__ = ["content_of", "preprocess_unchanged"]


def content_of(source: ImageSource) -> str:
    """SHA-256 (hex) of an image file's bytes, or of an array's shape and pixels. Raises `ImageError`."""
    content = file_content(source)
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, np.ndarray):
        return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()
    raise UsageError(f"samples hold files or arrays, not {type(content).__name__}", fix="pass a path or an array")


def preprocess_unchanged(source: ImageSource, spec: Preprocess, *, content: str, name: str) -> npt.NDArray[np.uint8]:
    """`edgetl_runtime.preprocess.preprocess` of an image that still is what `content_of` once saw.

    Raises `DataError` when it is not, `ImageError` when it cannot be read; both tell its `name`.
    """
    read = file_content(source)
    where = str(source) if isinstance(source, (str, Path)) else name
    if content_of(read) != content:
        raise DataError(f"{where} has changed since the data was read", fix="leave the photos alone, and start again")
    try:
        return preprocess(read, spec)
    except ImageError as error:
        raise ImageError(f"{where}: {error.what}", fix=error.fix) from error
