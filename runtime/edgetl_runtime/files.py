"""Where the files of a bundle are kept: a folder, a zip, or memory. Nothing is read from outside."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgetl_runtime.errors import BundleError

__all__ = ["BundleFiles", "Folder", "Memory", "Zip"]


class BundleFiles(Protocol):
    """Files by their path in the manifest: relative, with forward slashes."""

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        ...

    def read(self, relative: str) -> bytes:
        """Its content. Raises `BundleError` when it is missing, cannot be read, or lies outside of the bundle."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder. Links in it are followed: stores like the Hugging Face cache keep every file as one."""

    path: Path

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return (self.path / _inside(relative, self.path)).is_file()

    def read(self, relative: str) -> bytes:
        """Its content."""
        try:
            return (self.path / _inside(relative, self.path)).read_bytes()
        except FileNotFoundError:
            raise _missing(relative, self.path) from None
        except OSError as error:
            raise BundleError(f"cannot read {relative} in {self.path}: {error.strerror}") from error


@dataclass(frozen=True)
class Zip:
    """A zip file; ``prefix`` is the folder in it that holds the bundle, empty or ending with a slash."""

    path: Path
    prefix: str

    @classmethod
    def open(cls, path: Path, *, marker: str) -> Zip:
        """The zip at `path`, with the bundle where the file `marker` is: at the top or in a single folder there."""
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise BundleError(f"{path} is a damaged zip: {error}", fix="copy the bundle again") from None
        tops = {name.split("/", 1)[0] for name in names}
        only = f"{next(iter(tops))}/" if len(tops) == 1 else ""
        return cls(path, only if marker not in names and f"{only}{marker}" in names else "")

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        with zipfile.ZipFile(self.path) as archive:
            return self.prefix + str(_inside(relative, self.path)) in archive.namelist()

    def read(self, relative: str) -> bytes:
        """Its content."""
        name = self.prefix + str(_inside(relative, self.path))
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except KeyError:
            raise _missing(relative, self.path) from None
        # RuntimeError: encrypted; NotImplementedError: an unknown compression.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise BundleError(f"cannot read {relative} in {self.path}: {error}", fix="copy the bundle again") from error


@dataclass(frozen=True)
class Memory:
    """Contents that were read already: those of a single model file at ``path``."""

    path: Path
    contents: Mapping[str, bytes]

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return relative in self.contents

    def read(self, relative: str) -> bytes:
        """Its content."""
        if relative not in self.contents:
            raise _missing(relative, self.path)
        return self.contents[relative]


def _inside(relative: str, where: Path) -> PurePosixPath:
    """`relative` as a path that cannot leave the bundle. A manifest is input: it may be damaged or made up."""
    path = PurePosixPath(relative)
    # Backslashes and drives would mean something else on Windows, NUL ends a name in the operating system.
    suspicious = any(character in relative for character in "\\:\0")
    if not relative or suspicious or path.is_absolute() or ".." in path.parts:
        raise BundleError(f"the manifest of {where} names {relative!r}, outside of the bundle", fix="do not use it")
    return path


def _missing(relative: str, where: Path) -> BundleError:
    return BundleError(f"{relative} is missing in {where}", fix="copy the bundle again, or export it again")
