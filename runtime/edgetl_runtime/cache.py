"""Where results are kept that only save time: the user's cache folder.

What is read from there decides what is exported and what runs. So a folder in which another user can write is not used.
"""

from __future__ import annotations

import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path

from edgetl_runtime.errors import OutputError
from edgetl_runtime.writing import write_file

__all__ = ["CACHE_VARIABLE", "CacheWarning", "cache_folder", "check_own", "keep", "make_cache_folder", "own_cache"]

CACHE_VARIABLE = "EDGETL_CACHE"
"""Environment variable with the folder of the cache; empty switches it off."""


class CacheWarning(UserWarning):
    """A cache that is there and is not used."""


def cache_folder() -> Path | None:
    """Where results are kept: ``$EDGETL_CACHE``, else ``edgetl`` in the user's cache folder. None when it is off.

    A ``~`` that no shell has replaced is the user's home.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        if chosen is not None:
            return Path(chosen).expanduser() if chosen else None
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home).expanduser() if home else Path.home() / ".cache") / "edgetl"
    except RuntimeError:  # a service without a home
        return None


def own_cache(kind: str) -> Path | None:
    """The part of `cache_folder` for one kind of results; None, with a `CacheWarning`, when `check_own` refuses it."""
    root = cache_folder()
    if root is None:
        return None
    folder = root / kind
    try:
        check_own(folder)
    except OutputError as error:
        warnings.warn(f"{error.what}: it is not used; {error.fix}", CacheWarning, stacklevel=2)
        return None
    return folder


def check_own(path: Path) -> None:
    """`OutputError` for a folder or file of a cache that another user made, or can write to; for a link too.

    The system's administrator counts as oneself. What is not there is nobody's.
    """
    try:
        found = [path.lstat()]
        if path.is_symlink():
            found.append(path.stat())
    except OSError:
        return
    if not hasattr(os, "geteuid"):
        return
    me = os.geteuid()
    if any(there.st_uid not in (me, 0) for there in found):
        raise OutputError(f"the cache {path} belongs to another user", fix=f"{CACHE_VARIABLE}=FOLDER names another")
    mode = found[-1].st_mode
    # Where everybody has a group of their own, of the same number, files are often writable by it.
    private_group = found[-1].st_gid == found[-1].st_uid == me
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not private_group):
        raise OutputError(f"other users can write to the cache {path}", fix=f"empty it, then chmod go-w {path}")


def make_cache_folder(folder: Path) -> bool:
    """Make the folder, so that only this user can write to it; False when it is there already. Raises OSError."""
    if folder.is_dir():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o755, exist_ok=True)
    return True


def keep(file: Path, content: bytes) -> None:
    """Write `file` whole or not at all. A cache that cannot be written is left alone."""
    with suppress(OSError, OutputError):
        make_cache_folder(file.parent)
        check_own(file.parent)  # who made it a moment ago?
        write_file(file, content)
