"""Where the files of a bundle are kept: a folder, a zip, or memory. Nothing is read from outside, nothing unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgetl_runtime.errors import BundleError

__all__ = ["LARGEST_FILE", "BundleFiles", "Folder", "Memory", "Zip", "read_file"]

LARGEST_FILE = 2**31
"""Bytes. ONNX and TFLite files cannot be larger, nor does any other file of a bundle come near."""

_COPY_AGAIN = "copy the bundle again, or export it again"
_INFLATES = 200
"""Weights deflate to half at best, sparse ones to a tenth: what grows more than this, and is large, is a bomb."""
_LARGE_INFLATED = 16 * 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How bundles are zipped. The other methods of zip cannot be bounded while they are read."""
_ZIP_FAILURES = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,  # among them UnicodeDecodeError
    OverflowError,
    RuntimeError,  # encrypted
    NotImplementedError,
)


class BundleFiles(Protocol):
    """Files by their path in the manifest: relative, with forward slashes."""

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        ...

    def size(self, relative: str) -> int:
        """Its size in bytes, without reading it. Raises `BundleError` as `read` does."""
        ...

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content.

        Raises `BundleError` when it is missing, cannot be read, has more than `limit` bytes, or lies outside of the
        bundle.
        """
        ...


@dataclass(frozen=True)
class Folder:
    """A folder. Links in it are followed: stores like the Hugging Face cache keep every file as one."""

    path: Path

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        try:
            return (self.path / _inside(relative, self.path)).is_file()
        except OSError as error:
            raise _unreadable(relative, self.path, error) from error

    def size(self, relative: str) -> int:
        """Its size in bytes."""
        return _size(self.path / _inside(relative, self.path), relative, self.path)

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        return _content(self.path / _inside(relative, self.path), relative, self.path, limit)


@dataclass(frozen=True)
class Zip:
    """A zip file, read in memory.

    ``prefix`` is the folder in it that holds the bundle, empty or ending with a slash; ``sizes`` has the bytes of every
    entry as the zip's directory gives them, so that the directory is not read again for each question.
    """

    path: Path
    prefix: str
    sizes: Mapping[str, int]

    @classmethod
    def open(cls, path: Path, *, marker: str) -> Zip:
        """The zip at `path`, with the bundle where the file `marker` is: at the top or in a single folder there."""
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (*_ZIP_FAILURES, MemoryError) as error:
            raise BundleError(f"{path} is a damaged zip: {error}", fix=_COPY_AGAIN) from None
        sizes = {entry.filename: entry.file_size for entry in entries}
        if len(sizes) < len(entries):
            raise BundleError(f"{path} has two files of the same name", fix=_COPY_AGAIN)
        tops = {name.split("/", 1)[0] for name in sizes}
        only = f"{next(iter(tops))}/" if len(tops) == 1 else ""
        return cls(path, only if marker not in sizes and f"{only}{marker}" in sizes else "", sizes)

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return self.prefix + str(_inside(relative, self.path)) in self.sizes

    def size(self, relative: str) -> int:
        """Its size in bytes, as the directory of the zip gives it."""
        if not self.has(relative):
            raise _missing(relative, self.path)
        return self.sizes[self.prefix + str(_inside(relative, self.path))]

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        _check_size(relative, self.path, self.size(relative), limit)
        name = self.prefix + str(_inside(relative, self.path))
        try:
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(name)
                if entry.compress_type not in _METHODS:
                    raise NotImplementedError("only stored and deflated files are read")
                if entry.file_size > max(_LARGE_INFLATED, _INFLATES * entry.compress_size):
                    raise ValueError(f"{entry.compress_size} bytes would become {entry.file_size}")
                _check_size(relative, self.path, entry.file_size, limit)  # the zip may have been replaced
                return archive.read(entry)
        except KeyError:
            raise _missing(relative, self.path) from None
        except (*_ZIP_FAILURES, MemoryError) as error:
            raise _unreadable(relative, self.path, error) from error


@dataclass(frozen=True)
class Memory:
    """Contents that were read already: those of a single model file at ``path``."""

    path: Path
    contents: Mapping[str, bytes]

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return relative in self.contents

    def size(self, relative: str) -> int:
        """Its size in bytes."""
        return len(self.read(relative))

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        if relative not in self.contents:
            raise _missing(relative, self.path)
        _check_size(relative, self.path, len(self.contents[relative]), limit)
        return self.contents[relative]


def read_file(path: Path) -> bytes:
    """The content of the file at `path`. Raises `BundleError` as `BundleFiles.read` does."""
    return _content(path, path.name, path.parent, LARGEST_FILE)


def _content(path: Path, relative: str, where: Path, limit: int) -> bytes:
    size = _size(path, relative, where)
    _check_size(relative, where, size, limit)
    try:
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, MemoryError) as error:
        raise _unreadable(relative, where, error) from error


def _size(path: Path, relative: str, where: Path) -> int:
    try:
        if not path.is_file():  # a pipe or a device is no file: reading it could wait for ever
            raise _missing(relative, where)
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(relative, where, error) from error


def _inside(relative: str, where: Path) -> PurePosixPath:
    """`relative` as a path that cannot leave the bundle. A manifest is input: it may be damaged or made up."""
    path = PurePosixPath(relative)
    # Backslashes and drives would mean something else on Windows, NUL ends a name in the operating system.
    suspicious = any(character in relative for character in "\\:\0")
    if not path.parts or suspicious or path.is_absolute() or ".." in path.parts:
        raise BundleError(f"the manifest of {where} names {relative!r}, outside of the bundle", fix="do not use it")
    return path


def _check_size(relative: str, where: Path, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{relative} in {where} has {size} bytes, more than the {limit} it may have", fix=_COPY_AGAIN)


def _missing(relative: str, where: Path) -> BundleError:
    return BundleError(f"{relative} is missing in {where}", fix=_COPY_AGAIN)


def _unreadable(relative: str, where: Path, error: Exception) -> BundleError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return BundleError(f"cannot read {relative} in {where}: {reason}", fix=_COPY_AGAIN)
