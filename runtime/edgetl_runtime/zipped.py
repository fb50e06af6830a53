"""A bundle in a zip file, read in memory, never unpacked. A module of its own: zipfile takes long to import."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping

from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import COPY_AGAIN, LARGEST_FILE, check_size, inside, missing_file, regular, unreadable_file
from edgetl_runtime.frozen import dataclass

__all__ = ["Zip"]

_INFLATES = 32
"""Weights deflate to half at best, sparse ones to a tenth: what grows more than this, and is large, is a bomb."""
_LARGE_INFLATED = 16 * 2**20
"""Bytes, of all files together. What stays below may grow as it likes."""
_MOST_FILES = 10_000
"""A bundle has some fifty."""
_LARGEST_READ = 2 * 2**20
"""Bytes. A directory of `_MOST_FILES` has half of it, and files are read in pieces."""
_PIECE = 2**20
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


class _Bounded(io.FileIO):
    """A file of which nothing large is read at once: the directory of a zip is, before one can count its entries."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LARGEST_READ:
            raise zipfile.BadZipFile(f"its directory has {size} bytes, more than the {_LARGEST_READ} it may have")
        return super().read(-1 if size is None else size)


@dataclass(frozen=True)
class _Opened:
    """An open zip with its directory, and the process that opened it."""

    archive: zipfile.ZipFile
    entries: Mapping[str, zipfile.ZipInfo]
    process: int


class Zip:
    """A zip file, read in memory. It stays open, so that its directory is read once; threads may share it.

    ``prefix`` is the folder in it that holds the bundle, empty or ending with a slash.
    """

    def __init__(self, path: str, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._opened: _Opened | None = None

    @classmethod
    def open(cls, path: str, *, marker: str) -> Zip:
        """The zip at `path`, with the bundle where the file `marker` is: at the top or in a single folder there."""
        found = cls(path)
        names = found._here().entries
        tops = {name.split("/", 1)[0] for name in names}
        only = f"{next(iter(tops))}/" if len(tops) == 1 else ""
        if marker not in names and f"{only}{marker}" in names:
            found.prefix = only
        return found

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return self.prefix + inside(relative, self.path) in self._here().entries

    def size(self, relative: str) -> int:
        """Its size in bytes, as the directory of the zip gives it."""
        return self._entry(relative).file_size

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        entry = self._entry(relative)
        check_size(relative, self.path, entry.file_size, limit)
        try:
            if entry.compress_type not in _METHODS:
                raise NotImplementedError("only stored and deflated files are read")
            # In pieces: all at once would take twice the memory. getvalue() is no copy.
            content = io.BytesIO()
            with self._here().archive.open(entry) as file:
                while piece := file.read(_PIECE):
                    content.write(piece)
            return content.getvalue()
        except (*_ZIP_FAILURES, MemoryError) as error:
            raise unreadable_file(relative, self.path, error) from error

    def __reduce__(self) -> tuple[type[Zip], tuple[str, str]]:
        return Zip, (self.path, self.prefix)  # another process opens it for itself

    def _entry(self, relative: str) -> zipfile.ZipInfo:
        entry = self._here().entries.get(self.prefix + inside(relative, self.path))
        if entry is None:
            raise missing_file(relative, self.path)
        return entry

    def _here(self) -> _Opened:
        """The zip, opened by this process: after a fork both would read, and move, at one place of one file."""
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _open(self.path)
        return self._opened


def _open(path: str) -> _Opened:
    """Open the zip at `path`. Raises `BundleError` when it is damaged, or takes more memory or time than a bundle."""
    try:
        file = _Bounded(path, opener=regular)
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        size, inflated = os.fstat(file.fileno()).st_size, sum(entry.file_size for entry in entries)
        if len(entries) > _MOST_FILES:
            raise zipfile.BadZipFile(f"it has {len(entries)} files, more than the {_MOST_FILES} it may have")
        if inflated > max(_LARGE_INFLATED, _INFLATES * size):
            raise zipfile.BadZipFile(f"its {size} bytes would become {inflated}")
    except (*_ZIP_FAILURES, MemoryError) as error:
        raise BundleError(f"{path} is a damaged zip: {error}", fix=COPY_AGAIN) from None
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) < len(entries):
        raise BundleError(f"{path} has two files of the same name", fix=COPY_AGAIN)
    return _Opened(archive, by_name, os.getpid())
