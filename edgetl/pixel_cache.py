"""Decoded images kept on disk: rows of uint8 in one memory-mapped file, and an index that is written last.

An entry is a folder named by the key of its images; it is filled in a folder of its own and renamed into place, so
that processes which fill the same entry do not meet. Every row has a CRC-32 in the index and is held against it
whenever it is read: a row that was changed, or cut off, is decoded again and put back. An index that is damaged or
speaks of something else is as good as none.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgetl.threads import in_threads
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import OutputError

__all__ = ["LIMIT_BYTES", "PixelCache"]

Rows = npt.NDArray[np.uint8]

LIMIT_BYTES = 20 * 10**9
"""How much all entries may take together; those that were not used for longest go first."""

_VERSION = 1
_ROWS, _INDEX, _PART = "rows.u8", "index.json", ".part"
_LEFT_FREE = 500 * 10**6
_ABANDONED_SECONDS = 24 * 3600.0
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
            self._file: BinaryIO = (entry / _ROWS).open("r+b")
        except PermissionError:  # somebody else's cache: read, not repaired
            self._file = (entry / _ROWS).open("rb")
        weakref.finalize(self, self._file.close)
        whole = len(index.crc32) * index.row_bytes
        if os.fstat(self._file.fileno()).st_size != whole:
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
        """The entry `key` of `n` images below `folder`, filled by `decode` (index to uint8 (H, W, C)) if need be.

        Raises `OutputError` where it cannot be kept: no room, no permission; and what `decode` raises.
        """
        entry = folder / key
        try:
            index = _read_index(entry, key, n)
            if index is None:
                _fill(entry, key, n, decode, limit=limit, track=track)
                index = _read_index(entry, key, n)
            if index is None:
                raise OutputError(f"{entry} cannot be read back", fix="remove it")
            with suppress(OSError):
                os.utime(entry / _INDEX)  # used last now
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
    staged = entry.with_name(f"{key}.{os.getpid()}.{time.monotonic_ns()}{_PART}")
    staged.mkdir(parents=True)
    try:
        crc32: list[int] = []
        chunks = (range(start, min(start + _DECODED_AT_ONCE, n)) for start in range(0, n, _DECODED_AT_ONCE))
        decoded = in_threads(chunks, lambda chunk: [partial(decode, index) for index in chunk], ahead=2)
        with (staged / _ROWS).open("wb") as file:
            for row in track((row for _, rows in decoded for row in rows), what="decode", total=n):
                content = np.ascontiguousarray(row).data
                crc32.append(zlib.crc32(content))
                file.write(content)
        about = {"version": _VERSION, "key": key, "shape": [height, width, channels], "crc32": crc32}
        (staged / _INDEX).write_text(json.dumps(about | {"check": _check(about)}), encoding="utf-8")
        _put(staged, entry, key, n)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put(staged: Path, entry: Path, key: str, n: int) -> None:
    """Rename into place, unless another process was faster; what is there and damaged goes."""
    with suppress(OSError):
        staged.rename(entry)
        return
    if _read_index(entry, key, n) is None:
        damaged = entry.with_name(f"{staged.name}.damaged{_PART}")
        with suppress(FileNotFoundError):
            entry.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        with suppress(OSError):
            staged.rename(entry)


def _read_index(entry: Path, key: str, n: int) -> _Index | None:
    """None for one that is missing, damaged, half-written, or of something else."""
    try:
        about: dict[str, Any] = json.loads((entry / _INDEX).read_text(encoding="utf-8"))
        check = about.pop("check")
        height, width, channels = about["shape"]
        fits = (about["version"], about["key"], len(about["crc32"])) == (_VERSION, key, n)
        if not fits or check != _check(about) or not (entry / _ROWS).is_file():
            return None
        return _Index((height, width, channels), tuple(about["crc32"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Remove what was left half-filled, and then entries, longest unused first. Raises `OutputError` without room."""
    folder.mkdir(parents=True, exist_ok=True)
    if needed > limit:
        raise OutputError(
            f"decoded images would take {needed / 1e9:.1f} GB, and at most {limit / 1e9:.1f} GB are kept",
            fix="fewer or smaller images",
        )
    for part in folder.glob(f"*{_PART}"):
        # The folder too: another process may have made it a moment ago, and have no rows in it yet.
        if time.time() - max(_used(part), _used(part / _ROWS)) > _ABANDONED_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
    entries = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: _used(entry / _INDEX))
    sizes = {entry: _size(entry) for entry in entries}
    for entry in entries:
        if sum(sizes.values()) + needed <= limit and shutil.disk_usage(folder).free >= needed + _LEFT_FREE:
            return
        if entry.suffix != _PART:
            shutil.rmtree(entry, ignore_errors=True)
            sizes[entry] = _size(entry)
    if (free := shutil.disk_usage(folder).free) < needed + _LEFT_FREE:
        raise OutputError(
            f"decoded images would take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left",
            fix="EDGETL_CACHE=FOLDER on another disk",
        )


def _used(file: Path) -> float:
    """When it was last touched, in seconds; 0 if it is not there."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _size(entry: Path) -> int:
    try:
        return (entry / _ROWS).stat().st_size
    except OSError:
        return 0
