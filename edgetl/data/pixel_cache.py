"""Decoded images kept on disk: rows of uint8 in one memory-mapped file, and an index that is written last.

An entry is a folder named by the key of its images; it is filled in a folder of its own and renamed into place, so
that processes which fill the same entry do not meet. Every row has a CRC-32 in the index and is held against it
whenever it is read: a row that was changed, or cut off, is decoded again and put back. An index that is damaged or
speaks of something else is as good as none.

Rows that are read become what is trained on, and a CRC-32 only finds accidents. So entries of another user, or that
others can write to, are not used (`edgetl_runtime.cache.check_own`). No link is followed, and to make room nothing is
removed but the two files of an entry: a folder that is named by a key and whose index speaks of that key.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from edgetl.data.prefetch import in_threads
from edgetl_export.progress import Track, silent
from edgetl_export.renaming import rename_onto_nothing
from edgetl_export.staging import scratch, sweep
from edgetl_runtime.cache import check_own, make_cache_folder
from edgetl_runtime.errors import OutputError
from edgetl_runtime.writing import write_file

__all__ = ["LIMIT_BYTES", "PixelCache"]

Rows = npt.NDArray[np.uint8]

LIMIT_BYTES = 20 * 10**9
"""How much all entries may take together; those that were not used for longest go first."""

_VERSION = 1
_ROWS, _INDEX = "rows.u8", "index.json"
_KEY = re.compile("[0-9a-f]{64}")
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# edgetl made this folder and can make what is in it again: backups may leave it out.
# See https://bford.info/cachedir/
"""
_LEFT_FREE = 500 * 10**6
_DECODED_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class _Index:
    """Shape of a row (height, width, channels), and the CRC-32 of each."""

    shape: tuple[int, int, int]
    crc32: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


class PixelCache:
    """``n`` decoded images of one size; ``repaired`` counts the rows that were damaged and decoded again."""

    def __init__(self, entry: Path, index: _Index, decode: Callable[[int], Rows]) -> None:
        """Opened by `open`; raises OSError where the rows cannot be mapped."""
        self.shape = index.shape
        self.repaired = 0
        self._crc32, self._row_bytes, self._decode = index.crc32, index.row_bytes, decode
        self._lock = threading.Lock()
        try:
            self._file: BinaryIO = _opened(entry / _ROWS, "r+b")
        except PermissionError:  # the administrator's cache: read, not repaired
            self._file = _opened(entry / _ROWS, "rb")
        weakref.finalize(self, self._file.close)
        whole = len(index.crc32) * index.row_bytes
        if os.fstat(self._file.fileno()).st_size < whole:
            self._file.truncate(whole)  # rows that are missing read as zeros, which their checksum tells
        self._rows = np.memmap(self._file, np.uint8, "r", shape=(len(index.crc32), *index.shape))

    @classmethod
    def open(
        cls,
        folder: Path,
        key: str,
        n: int,
        decode: Callable[[int], Rows],
        *,
        limit: int = LIMIT_BYTES,
        track: Track = silent,
    ) -> PixelCache:
        """The entry `key` (SHA-256 in hex) of `n` images below `folder`, filled by `decode` (index to uint8 (H, W, C))
        if need be.

        Raises `OutputError` where it cannot be kept: no room, no permission, others could have written it; and what
        `decode` raises.
        """
        entry = folder / key
        try:
            if make_cache_folder(folder):
                write_file(folder / "CACHEDIR.TAG", _TAG)
            check_own(folder)
            index = _read_index(entry, key, n)
            if index is None:
                _fill(entry, key, n, decode, limit=limit, track=track)
                index = _read_index(entry, key, n)
            if index is None:
                raise OutputError(f"{entry} is no entry of the cache", fix="move it away")
            for path in (entry, entry / _INDEX, entry / _ROWS):
                check_own(path)
            with suppress(OSError):
                os.utime(entry / _INDEX, follow_symlinks=False)  # used last now
            return cls(entry, index, decode)
        except OSError as error:
            raise OutputError(f"cannot keep decoded images in {folder}: {error}", fix="EDGETL_CACHE=FOLDER") from error

    def read_into(self, indices: Sequence[int], rows: Rows) -> None:
        """Write the images of these indices to `rows`, uint8 (len(indices), H, W, C). Safe in many threads at once."""
        for index, row in zip(indices, rows, strict=True):
            # A file that was cut short under its mapping would end the process.
            there = os.fstat(self._file.fileno()).st_size >= (index + 1) * self._row_bytes
            if there:
                np.copyto(row, self._rows[index])
            if not there or zlib.crc32(row.data) != self._crc32[index]:
                self._repair(index, row)

    def _repair(self, index: int, row: Rows) -> None:
        np.copyto(row, self._decode(index))
        with self._lock:
            self.repaired += 1
            if zlib.crc32(row.data) == self._crc32[index]:
                with suppress(OSError):  # read-only, or a full disk: it is decoded again next time
                    self._file.seek(index * self._row_bytes)
                    self._file.write(row.data)
                    self._file.flush()


def _fill(entry: Path, key: str, n: int, decode: Callable[[int], Rows], *, limit: int, track: Track) -> None:
    height, width, channels = (first := decode(0)).shape
    _make_room(entry.parent, n * first.nbytes, limit)
    with scratch(entry.parent, key) as folder:
        crc32: list[int] = []
        chunks = (range(start, min(start + _DECODED_AT_ONCE, n)) for start in range(0, n, _DECODED_AT_ONCE))
        decoded = in_threads(chunks, lambda chunk: [partial(decode, index) for index in chunk], ahead=2)
        with (folder / _ROWS).open("wb") as file:
            for row in track((row for _, rows in decoded for row in rows), what="decode", total=n):
                content = np.ascontiguousarray(row).data
                crc32.append(zlib.crc32(content))
                file.write(content)
        about = {"version": _VERSION, "key": key, "shape": [height, width, channels], "crc32": crc32}
        (folder / _INDEX).write_text(json.dumps(about | {"check": _check(about)}), encoding="utf-8")
        _put(folder, entry, key, n)


def _put(folder: Path, entry: Path, key: str, n: int) -> None:
    """Rename into place, unless another process was faster; what is there and damaged goes."""
    with suppress(FileExistsError):
        rename_onto_nothing(folder, entry)
        return
    if _read_index(entry, key, n) is None:
        _remove(entry)
        with suppress(FileExistsError):
            rename_onto_nothing(folder, entry)


def _read_index(entry: Path, key: str, n: int) -> _Index | None:
    """None for one that is missing, damaged, half-written, or of something else."""
    about = _about(entry)
    try:
        height, width, channels = about["shape"]
        if (about["key"], len(about["crc32"])) != (key, n) or not (entry / _ROWS).is_file():
            return None
        return _Index((height, width, channels), tuple(about["crc32"]))
    except (ValueError, KeyError, TypeError):
        return None


def _about(entry: Path) -> dict[str, Any]:
    """What the index of an entry says; nothing when it is damaged, or not ours."""
    try:
        with _opened(entry / _INDEX, "rb") as file:
            about: dict[str, Any] = json.load(file)
        sound = not entry.is_symlink() and about.pop("check") == _check(about) and about["version"] == _VERSION
        return about if sound else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _opened(path: Path, mode: Literal["rb", "r+b"]) -> BinaryIO:
    """An existing regular file; OSError for a link, and for what could hold the program up."""
    flags = os.O_RDONLY if mode == "rb" else os.O_RDWR
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), mode)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no file")
    return file


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Remove what killed programs left, and then entries, longest unused first. Raises `OutputError` without room.

    Where all entries together would not make enough room, none is removed.
    """
    if needed > limit:
        raise OutputError(
            f"decoded images would take {needed / 1e9:.1f} GB, and at most {limit / 1e9:.1f} GB are kept",
            fix="fewer or smaller images",
        )
    sweep(folder)
    entries = sorted(
        (entry for entry in folder.iterdir() if _KEY.fullmatch(entry.name)), key=lambda entry: _used(entry / _INDEX)
    )
    sizes = {entry: _size(entry) for entry in entries}
    missing = max(sum(sizes.values()) + needed - limit, needed + _LEFT_FREE - shutil.disk_usage(folder).free)
    going = []
    for entry in entries:
        if missing > 0 and _about(entry).get("key") == entry.name:
            going.append(entry)
            missing -= sizes[entry]
    if missing <= 0:
        for entry in going:
            _remove(entry)
    free = shutil.disk_usage(folder).free
    if missing > 0 or free < needed + _LEFT_FREE:
        raise OutputError(
            f"decoded images would take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left",
            fix="EDGETL_CACHE=FOLDER on another disk",
        )


def _remove(entry: Path) -> None:
    """The two files of an entry, the index last: until then it is known as one. What else is there stays."""
    if not entry.is_symlink():
        with suppress(OSError):
            for name in (_ROWS, _INDEX):
                (entry / name).unlink(missing_ok=True)
            entry.rmdir()


def _used(file: Path) -> float:
    """When it was last touched, in seconds; 0 if it is not there."""
    try:
        return file.lstat().st_mtime
    except OSError:
        return 0.0


def _size(entry: Path) -> int:
    try:
        return (entry / _ROWS).lstat().st_size
    except OSError:
        return 0
