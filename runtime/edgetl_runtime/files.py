"""Where the files of a bundle are kept: a folder, memory, or a zip (`edgetl_runtime.zipped`). Nothing is read from
outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass

__all__ = [
    "COPY_AGAIN",
    "LARGEST_FILE",
    "MODEL_SUFFIXES",
    "BundleFiles",
    "Folder",
    "Memory",
    "check_size",
    "inside",
    "missing_file",
    "read_file",
    "unreadable_file",
    "weights_path",
]

MODEL_SUFFIXES = (".onnx", ".tflite", ".xml")
"""Endings of the model files that carry a manifest."""

LARGEST_FILE = 2**31
"""Bytes. ONNX and TFLite files cannot be larger, nor does any other file of a bundle come near."""

COPY_AGAIN = "copy the bundle again, or export it again"


class BundleFiles(Protocol):
    """Files by their path in the manifest: relative, with forward slashes."""

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        ...

    def size(self, relative: str) -> int:
        """Its size in bytes, without reading it. Raises `BundleError` as `read` does."""
        ...

    def locate(self, relative: str) -> Path | None:
        """Where it lies as a file of its own, None when it does not. Raises `BundleError` when it lies outside."""
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
            return (self.path / inside(relative, self.path)).is_file()
        except OSError as error:
            raise unreadable_file(relative, self.path, error) from error

    def size(self, relative: str) -> int:
        """Its size in bytes."""
        return _size(self.path / inside(relative, self.path), relative, self.path)

    def locate(self, relative: str) -> Path:
        """Where it lies."""
        return self.path / inside(relative, self.path)

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        return _content(self.path / inside(relative, self.path), relative, self.path, limit)


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

    def locate(self, relative: str) -> None:
        """What was read already is not read again."""
        return

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        if relative not in self.contents:
            raise missing_file(relative, self.path)
        check_size(relative, self.path, len(self.contents[relative]), limit)
        return self.contents[relative]


def read_file(path: Path) -> bytes:
    """The content of the file at `path`. Raises `BundleError` as `BundleFiles.read` does."""
    return _content(path, path.name, path.parent, LARGEST_FILE)


def _content(path: Path, relative: str, where: Path, limit: int) -> bytes:
    size = _size(path, relative, where)
    check_size(relative, where, size, limit)
    try:
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, MemoryError) as error:
        raise unreadable_file(relative, where, error) from error


def _size(path: Path, relative: str, where: Path) -> int:
    try:
        if not path.is_file():  # a pipe or a device is no file: reading it could wait for ever
            raise missing_file(relative, where)
        return path.stat().st_size
    except OSError as error:
        raise unreadable_file(relative, where, error) from error


def inside(relative: str, where: Path) -> PurePosixPath:
    """`relative` as a path that cannot leave the bundle. A manifest is input: it may be damaged or made up."""
    path = PurePosixPath(relative)
    # Backslashes and drives would mean something else on Windows, NUL ends a name in the operating system.
    suspicious = any(character in relative for character in "\\:\0")
    if not path.parts or suspicious or path.is_absolute() or ".." in path.parts:
        raise BundleError(f"the manifest of {where} names {relative!r}, outside of the bundle", fix="do not use it")
    return path


def check_size(relative: str, where: Path, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{relative} in {where} has {size} bytes, more than the {limit} it may have", fix=COPY_AGAIN)


def missing_file(relative: str, where: Path) -> BundleError:
    return BundleError(f"{relative} is missing in {where}", fix=COPY_AGAIN)


def unreadable_file(relative: str, where: Path, error: Exception) -> BundleError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return BundleError(f"cannot read {relative} in {where}: {reason}", fix=COPY_AGAIN)


def weights_path(path: str) -> str | None:
    """The file that belongs to the model file at `path`: the .bin beside an OpenVINO .xml, None for the others."""
    return str(Path(path).with_suffix(".bin").as_posix()) if path.endswith(".xml") else None
