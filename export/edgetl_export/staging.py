"""Folders that are there whole or not at all: written beside their destination and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgetl_runtime.errors import OutputError

__all__ = ["check_destination", "is_about_the_disk", "staged"]


def check_destination(path: Path, *, holds: str, force: bool = False) -> None:
    """`OutputError` when `path` exists or cannot be created.

    With `force` a folder is replaced, but only one that has a file called `holds`: not whatever lies there.
    """
    if path.exists():
        if not force:
            raise OutputError(f"{path} exists already", fix="choose another --out, or --force to replace it")
        if not (path / holds).is_file():
            raise OutputError(f"{path} has no {holds} and is not replaced", fix="choose another --out")
    existing = next(parent for parent in (path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {existing}", fix="choose another --out, or change its permissions")


@contextlib.contextmanager
def staged(destination: Path, *, holds: str, force: bool = False) -> Iterator[Path]:
    """A folder beside `destination` that takes its place when the block ends well, and is removed when it does not.

    What stood there before is only removed after that. Raises `OutputError` as `check_destination` does, and when the
    disk is full or read-only.
    """
    check_destination(destination, holds=holds, force=force)
    destination = destination.absolute()
    made = [parent for parent in destination.parents if not parent.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise _cannot_write(destination, error) from error
    done = False
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        if destination.exists():
            destination.rename(scratch / "old")
        folder.rename(destination)
        done = True
    except OSError as error:
        if not is_about_the_disk(error):
            raise
        raise _cannot_write(destination, error) from error
    finally:
        if not done and (scratch / "old").exists():
            (scratch / "old").rename(destination)
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made if not done else []:
            with contextlib.suppress(OSError):
                parent.rmdir()


def is_about_the_disk(error: OSError) -> bool:
    """Whether it says that nothing more can be written, and not that something is missing."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def _cannot_write(destination: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {destination}: {error.strerror}", fix="choose another --out, or make room")
