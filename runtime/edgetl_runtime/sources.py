"""What an image may come as, and the one rule that tells one image from many.

One image is a path, the bytes of a file (bytes, bytearray, memoryview), an open file or an upload, a PIL image, a numpy
array. Many are an array (n, H, W, C), an array of objects or names, and whatever else can be iterated.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
from PIL import Image

from edgetl_runtime.errors import UsageError
from edgetl_runtime.files import LARGEST_FILE

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["HasBytes", "HasRead", "ImageSource", "name_of", "no_image", "read_source", "separate"]


class HasBytes(Protocol):
    """Whatever gives the content of an image file when it is asked: `zipfile.Path` does, a member of a tar may."""

    def read_bytes(self) -> bytes:
        """The file, whole."""


class HasRead(Protocol):
    """An open file, `io.BytesIO`, or the upload of a web framework."""

    def read(self) -> bytes:
        """The file, whole."""


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8] | HasBytes | HasRead"
)

_PART = 2**20
_WANTED = "pass a path, an open file, bytes, a PIL image, a numpy array (H, W, 3) of uint8, or an iterable of them"


def separate(images: ImageSource | Iterable[ImageSource]) -> tuple[Iterable[ImageSource], bool]:
    """The images, and whether it is one and not several. Raises `UsageError` for what is neither."""
    if _is_one(images):
        return [cast("ImageSource", images)], True
    # Of a mapping only the names would be taken, of which none is its image.
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise no_image(images)
    return cast("Iterable[ImageSource]", images), False


def _is_one(source: object) -> bool:
    if isinstance(source, np.ndarray):
        return source.ndim == 0 or not (source.ndim == 4 or source.dtype.kind in "OU")
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(source, kinds) or hasattr(source, "read_bytes") or hasattr(source, "read")


def no_image(source: object) -> UsageError:
    """The error for something that cannot be an image."""
    fix = _WANTED
    if source is None:
        fix = "cv2.imread gives None for a file that it cannot read: check the path"
    elif isinstance(source, Mapping):
        fix = "pass the image in it"
    elif hasattr(source, "__array__"):
        fix = "numpy.asarray of it, (H, W, 3) of uint8"
    return UsageError(f"cannot read an image from {type(source).__name__}", fix=fix)


def read_source(source: HasBytes | HasRead) -> bytes:
    """The content of what has ``read_bytes()`` or ``read()``; a file that can be rewound is, wherever it stands.

    Raises `UsageError` when reading cannot give bytes, and whatever reading raises.
    """
    if hasattr(source, "read_bytes"):
        content = source.read_bytes()
        if not isinstance(content, bytes):
            raise TypeError(f"read_bytes gives {type(content).__name__}")
        return content
    if not hasattr(source, "read"):
        raise no_image(source)
    if inspect.iscoroutinefunction(source.read):
        raise _gives(source, "what has to be awaited", "pass what  await upload.read()  gives, or upload.file")
    found: Any = _read_file(source) if hasattr(source, "seek") or isinstance(source, io.IOBase) else source.read()
    if isinstance(found, str):
        raise _gives(source, "str", 'open(path, "rb")')
    if not isinstance(found, bytes):
        fix = "pass its images one by one" if isinstance(found, tuple) else "pass what reads the bytes of an image file"
        raise _gives(source, type(found).__name__, fix)
    return found


def _gives(source: object, what: str, fix: str) -> UsageError:
    kind = type(source).__name__
    return UsageError(f"cannot read an image from {kind}: reading it gives {what}, not bytes", fix=fix)


def _read_file(file: Any) -> bytes | str:
    """All of an open file, but no more than a file may have: a device never ends."""
    if not hasattr(file, "seekable") or file.seekable():
        file.seek(0)
    parts, left = [], LARGEST_FILE + 1
    while left > 0 and (part := file.read(min(_PART, left))):  # sockets and pipes give less than one asks for
        if isinstance(part, str):
            return part
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise ValueError(f"it has more than the {LARGEST_FILE} bytes that a file may have")
    return b"".join(parts)


def name_of(source: object) -> str:
    """How messages call a source: as it prints itself, else by its file's name, never with the address of an object."""
    text = str(source)
    if not text.startswith("<") and " at 0x" not in text:
        return text
    for attribute in ("filename", "name"):
        name = getattr(source, attribute, None)
        if name and isinstance(name, (str, bytes, os.PathLike)):
            return os.fsdecode(name)
    return f"the image in a {type(source).__name__}"
