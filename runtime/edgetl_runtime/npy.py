"""numpy's own files, images among them: read by their size, never unpickled."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import ImageError

__all__ = ["npz_sizes", "read_npy", "read_npz", "write_npy"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""By version; numpy writes the later ones for arrays of named fields only."""
_FAILURES = (ValueError, OSError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError)

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


def npz_sizes(content: bytes) -> dict[str, int]:
    """What an ``.npz`` file says that its arrays have, in bytes by name. Raises `ValueError` when it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    except _NPZ_FAILURES as error:
        raise ValueError(str(error) or type(error).__name__) from error


def read_npz(content: bytes, limits: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` file that `limits` names, which says how many bytes each may have.

    Raises `ValueError` with the reason when one is missing, larger, damaged, or of objects.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name, limit in limits.items():
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > limit + _NPY_HEADER:
                    raise ValueError(f"{name} has {entry.file_size} bytes, more than the {limit} it may have")
                with archive.open(entry) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except _NPZ_FAILURES as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays


def read_npy(file: BinaryIO, where: str, *, most_bytes: int) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, of any dtype but objects; `where` names it in errors.

    Its header must promise no more than `most_bytes`, and as many as follow, before memory is taken for them.
    Raises `ImageError`.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its version is {version}")
        shape, fortran, dtype = _HEADERS[version](file)
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= size <= most_bytes:
            raise ValueError(f"an array {list(shape)} of {dtype} is too large")
        start = file.tell()
        found = file.seek(0, io.SEEK_END) - start
        if found != size:
            raise ValueError(f"an array {list(shape)} of {dtype} has {size} bytes, not the {found} that are there")
        file.seek(start)
        # Of bytes numpy makes numbers, never objects.
        return np.frombuffer(file.read(size), dtype).reshape(shape, order="F" if fortran else "C")
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"cannot read {where}: {reason}", fix="save it again: numpy.save(FILE, array)") from error


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """The content of a ``.npy`` file of `array`."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
