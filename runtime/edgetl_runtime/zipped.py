"""A bundle in a zip file, read in memory, never unpacked. A module of its own: zipfile takes long to import."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping

from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import COPY_AGAIN, LARGEST_FILE, check_size, inside, missing_file, unreadable_file
from edgetl_runtime.frozen import dataclass

__all__ = ["Zip"]

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


@dataclass(frozen=True)
class Zip:
    """A zip file, read in memory.

    ``prefix`` is the folder in it that holds the bundle, empty or ending with a slash; ``sizes`` has the bytes of every
    entry as the zip's directory gives them, so that the directory is not read again for each question.
    """

    path: str
    prefix: str
    sizes: Mapping[str, int]

    @classmethod
    def open(cls, path: str, *, marker: str) -> Zip:
        """The zip at `path`, with the bundle where the file `marker` is: at the top or in a single folder there."""
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (*_ZIP_FAILURES, MemoryError) as error:
            raise BundleError(f"{path} is a damaged zip: {error}", fix=COPY_AGAIN) from None
        sizes = {entry.filename: entry.file_size for entry in entries}
        if len(sizes) < len(entries):
            raise BundleError(f"{path} has two files of the same name", fix=COPY_AGAIN)
        tops = {name.split("/", 1)[0] for name in sizes}
        only = f"{next(iter(tops))}/" if len(tops) == 1 else ""
        return cls(path, only if marker not in sizes and f"{only}{marker}" in sizes else "", sizes)

    def has(self, relative: str) -> bool:
        """Whether there is a file of that path."""
        return self.prefix + inside(relative, self.path) in self.sizes

    def size(self, relative: str) -> int:
        """Its size in bytes, as the directory of the zip gives it."""
        if not self.has(relative):
            raise missing_file(relative, self.path)
        return self.sizes[self.prefix + inside(relative, self.path)]

    def locate(self, relative: str) -> None:
        """Nothing in a zip is a file of its own."""
        return

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """Its content."""
        check_size(relative, self.path, self.size(relative), limit)
        name = self.prefix + inside(relative, self.path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(name)
                if entry.compress_type not in _METHODS:
                    raise NotImplementedError("only stored and deflated files are read")
                if entry.file_size > max(_LARGE_INFLATED, _INFLATES * entry.compress_size):
                    raise ValueError(f"{entry.compress_size} bytes would become {entry.file_size}")
                check_size(relative, self.path, entry.file_size, limit)  # the zip may have been replaced
                return archive.read(entry)
        except KeyError:
            raise missing_file(relative, self.path) from None
        except (*_ZIP_FAILURES, MemoryError) as error:
            raise unreadable_file(relative, self.path, error) from error
