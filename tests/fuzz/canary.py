"""A tree of somebody else beside the folder that inputs are tried in: nobody may open, change or remove any of it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["PLACES", "Canary", "beside_canary"]

PLACES = ("../canary/secret", "../canary/pixels", "../canary/pixels/photo.bmp", "../canary/pipe", "../canary/link")
"""How an input names it, from the folder that the process works in."""

_CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800  # all that inotify tells of changes
_OPENED = 0x20
_EVENT = struct.Struct("iIII")


class Canary:
    """The tree in ``place``: content, times, owners and permissions, and on Linux whether any of it was opened.

    The kernel tells the last (inotify), also where it keeps no times of access. Of the folder around ``place`` the
    names are watched: what is written beside the folder of the inputs is found too.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "pixels" / "deep").mkdir(parents=True)
        (place / "secret").write_text("what no input may read, change or remove")
        (place / "pixels" / "photo.bmp").write_bytes(b"BM" + bytes(200))
        (place / "pixels" / "deep" / "manifest.json").write_text("{}")
        (place / "sealed").write_text("x")
        (place / "sealed").chmod(0o400)
        (place / "link").symlink_to("secret")
        os.mkfifo(place / "pipe")
        self._events = _watching([place, place / "pixels", place / "pixels" / "deep"])
        self._before = self._state()

    def _state(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in [self.place, *sorted(self.place.rglob("*"))]:
            about = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            owner = about.st_uid, about.st_gid
            found[str(path)] = about.st_mode, owner, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, content
        found["beside it"] = tuple(sorted(path.name for path in self.place.parent.iterdir()))
        self._told()  # of what was opened to look at it
        return found

    def _told(self) -> list[str]:
        """What the kernel has told since the last time."""
        if self._events is None:
            return []
        names = []
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._events, 2**16):
                while content:
                    _, mask, _, length = _EVENT.unpack_from(content)
                    name = os.fsdecode(content[_EVENT.size : _EVENT.size + length].rstrip(b"\0")) or "."
                    names.append(f"{name} {'opened' if mask & _OPENED else f'changed ({mask:#x})'}")
                    content = content[_EVENT.size + length :]
        return names

    def touched(self) -> str | None:
        """What happened to it since it was made or asked for; None when nothing did."""
        told = self._told()
        now = self._state()
        changed = [name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)]
        self._before = now
        return f"touched outside: {', '.join(sorted({*told, *changed}))}" if told or changed else None

    def close(self) -> None:
        """Watch it no longer."""
        if self._events is not None:
            os.close(self._events)
            self._events = None


def _watching(folders: list[Path]) -> int | None:
    """A descriptor that tells what is done to what lies in these folders; None where there is no such thing."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return None
    events = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if events < 0:
        return None
    for folder in folders:
        if libc.inotify_add_watch(events, os.fsencode(folder), _CHANGES | _OPENED) < 0:
            os.close(events)
            return None
    return events


@contextlib.contextmanager
def beside_canary(parent: Path | None = None) -> Iterator[tuple[Path, Canary]]:
    """An empty folder ``work`` that the process works in meanwhile, its cache in it, and a `Canary` beside it."""
    before, cache = Path.cwd(), os.environ.get("EDGETL_CACHE")
    with tempfile.TemporaryDirectory(prefix="edgetl-fuzz-", dir=parent) as temporary:
        work = Path(temporary, "work")
        work.mkdir()
        canary = Canary(Path(temporary, "canary"))
        os.environ["EDGETL_CACHE"] = str(work / "cache")
        os.chdir(work)
        try:
            yield work, canary
        finally:
            canary.close()
            os.chdir(before)
            os.environ.pop("EDGETL_CACHE")
            if cache is not None:
                os.environ["EDGETL_CACHE"] = cache
