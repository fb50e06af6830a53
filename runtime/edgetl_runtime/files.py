"""Where the files of a bundle are kept: a folder, memory, or a zip (`edgetl_runtime.zipped`). Nothing is read from
outside.

Paths are plain text here, as everywhere between a program's start and its first label: pathlib takes 3 ms to import.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    from edgetl_runtime.manifest import FileEntry, Manifest

__all__ = [
    "COPY_AGAIN",
    "LARGEST_FILE",
    "MODEL_SUFFIXES",
    "NOT_THERE",
    "BundleContents",
    "BundleFiles",
    "Folder",
    "Memory",
    "NotRegularError",
    "check_size",
    "inside",
    "is_file",
    "missing_file",
    "mode_of",
    "open_regular",
    "read_bounded",
    "read_file",
    "read_regular",
    "regular",
    "unreadable_file",
    "weights_path",
]

MODEL_SUFFIXES = (".onnx", ".tflite", ".xml")
"""Endings of the model files that carry a manifest."""

LARGEST_FILE = 2**31
"""Bytes. ONNX and TFLite files cannot be larger, nor does any other file of a bundle come near."""

COPY_AGAIN = "copy the bundle again, or export it again"

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
"""Errors of the operating system that say that nothing is at a path."""


class NotRegularError(OSError):
    """A pipe or a device is where a file was expected: reading it could wait for ever, or never end."""


class BundleContents(Protocol):
    """What `edgetl_runtime.bundle.Bundle` is to those that read its parts."""

    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> Manifest: ...

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        ...

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content. Raises `BundleError` as `BundleFiles.read` does."""
        ...

    def read_entry(self, entry: FileEntry) -> bytes:
        """A file of the manifest, held against its size and hash. Raises `BundleError`."""
        ...


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

    path: str

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        try:
            return is_file(self._locate(relative))
        except OSError as error:
            raise unreadable_file(relative, self.path, error) from error

    def size(self, relative: str) -> int:
        """Its size in bytes."""
        return _size(self._locate(relative), relative, self.path)

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        return _content(self._locate(relative), relative, self.path, limit)

    def _locate(self, relative: str) -> str:
        return os.path.join(self.path, inside(relative, self.path))


@dataclass(frozen=True)
class Memory:
    """Contents that were read already: those of a single model file at ``path``."""

    path: str
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
            raise missing_file(relative, self.path)
        check_size(relative, self.path, len(self.contents[relative]), limit)
        return self.contents[relative]


def mode_of(path: str) -> int | None:
    """``st_mode`` of what is at `path`, None when nothing is. Raises OSError when one cannot tell."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    except ValueError:  # a NUL ends a name in the operating system
        pass
    return None


def is_file(path: str) -> bool:
    """Whether a file is at `path`: a pipe or a device is none, reading it could wait for ever."""
    mode = mode_of(path)
    return mode is not None and stat.S_ISREG(mode)


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """The opener (as that of `open`) of a file to read: without waiting, and what was opened is asked what it is.

    At its path there may be a pipe by now. It is looked at before, for a device may do something when it is opened.
    Raises `OSError` with a ``strerror``, `NotRegularError` among them.
    """
    _check_regular(os.stat(path), path)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A file that is no part of a bundle, open to be read. Raises `OSError` as `regular` does."""
    return open(path, "rb", opener=regular)


def read_regular(path: str | os.PathLike[str], *, limit: int = LARGEST_FILE) -> bytes:
    """The content of a file that is no part of a bundle.

    Raises `OSError` as `open_regular` and `read_bounded` do.
    """
    with open_regular(path) as file:
        return read_bounded(file, limit=limit)


def read_bounded(file: BinaryIO, *, limit: int = LARGEST_FILE) -> bytes:
    """All of a file that `open_regular` opened. Raises `OSError` with a ``strerror`` for more than `limit` bytes."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise OSError(errno.EFBIG, f"it has {size} bytes, more than the {limit} it may have", file.name)
    return file.read(limit)


def _check_regular(about: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(about.st_mode):
        raise NotRegularError(errno.EINVAL, "it is no regular file, but a pipe or a device", os.fspath(path))


def read_file(path: str) -> bytes:
    """The content of the file at `path`. Raises `BundleError` as `BundleFiles.read` does."""
    return _content(path, os.path.basename(path), os.path.dirname(path) or ".", LARGEST_FILE)


def _content(path: str, relative: str, where: str, limit: int) -> bytes:
    try:
        if not is_file(path):
            raise missing_file(relative, where)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(relative, where, size, limit)
            return file.read(size)
    except (OSError, MemoryError) as error:
        raise unreadable_file(relative, where, error) from error


def _size(path: str, relative: str, where: str) -> int:
    try:
        if not is_file(path):
            raise missing_file(relative, where)
        return os.path.getsize(path)
    except OSError as error:
        raise unreadable_file(relative, where, error) from error


def inside(relative: str, where: str) -> str:
    """`relative` as a path that cannot leave the bundle. A manifest is input: it may be damaged or made up."""
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    # Backslashes and drives would mean something else on Windows, NUL ends a name in the operating system.
    suspicious = any(character in relative for character in "\\:\0")
    if not parts or suspicious or relative.startswith("/") or ".." in parts:
        raise BundleError(f"the manifest of {where} names {relative!r}, outside of the bundle", fix="do not use it")
    return "/".join(parts)


def check_size(relative: str, where: str, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{relative} in {where} has {size} bytes, more than the {limit} it may have", fix=COPY_AGAIN)


def missing_file(relative: str, where: str) -> BundleError:
    return BundleError(f"{relative} is missing in {where}", fix=COPY_AGAIN)


def unreadable_file(relative: str, where: str, error: Exception) -> BundleError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return BundleError(f"cannot read {relative} in {where}: {reason}", fix=COPY_AGAIN)


def weights_path(path: str) -> str | None:
    """The file that belongs to the model file at `path`: the .bin beside an OpenVINO .xml, None for the others."""
    return f"{path.removesuffix('.xml')}.bin" if path.endswith(".xml") else None
