"""Folders that are there whole or not at all: written beside their destination and renamed into place.

They are written in a hidden folder of a random name, ``.NAME-edgetl-...``. A file in it, `MARK`, says what it was for;
who writes there holds a lock on that file. What a killed program left is so known from what a living one needs, and
the next one that writes into the same folder takes it away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgetl_export.renaming import exchange, rename_onto_nothing
from edgetl_runtime.errors import OutputError
from edgetl_runtime.writing import LONGEST_STEM, Claim, sync

__all__ = ["check_destination", "is_about_the_disk", "scratch", "staged", "sweep"]

MARK = "edgetl-staging.json"
_NAME = re.compile(r"\..*-edgetl-[a-z0-9_]{8}")
_NEW, _OLD = "new", "old"
_ATTEMPTS = 100
_MEANWHILE = "somebody else wrote it meanwhile"


def check_destination(path: Path, *, holds: str, force: bool = False) -> None:
    """`OutputError` when `path` exists or cannot be created.

    With `force` a folder is replaced, but only one that has a file called `holds`: not whatever lies there. What a
    killed program left beside it is put in order before.
    """
    place = _behind_links(path)
    sweep(place.parent)
    if place.exists():
        if not force:
            raise OutputError(f"{path} exists already", fix="choose another --out, or --force to replace it")
        if not (place / holds).is_file():
            raise OutputError(f"{path} has no {holds} and is not replaced", fix="choose another --out")
    existing = next(parent for parent in place.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {existing}", fix="choose another --out, or change its permissions")


@contextlib.contextmanager
def staged(destination: Path, *, holds: str, force: bool = False) -> Iterator[Path]:
    """A folder beside `destination` that takes its place when the block ends well, and is removed when it does not.

    What stood there before is only removed after that. When somebody else made or replaced it meanwhile, theirs stays,
    and the folder is kept under another name, which the `OutputError` says. Raises `OutputError` too as
    `check_destination` does, and when the disk is full or read-only.
    """
    check_destination(destination, holds=holds, force=force)
    shown, destination = destination, _behind_links(destination)
    before = _identity(destination, holds)
    made = [parent for parent in destination.parents if not parent.exists()]
    done = False
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with scratch(destination.parent, destination.name) as folder:
            yield folder
            _to_the_disk(folder)
            try:
                _put(folder, destination, before, holds)
            except OSError as error:
                done = True
                raise _put_aside(folder, destination, shown, error) from error
            done = True
    except OSError as error:
        if not is_about_the_disk(error):
            raise
        raise OutputError(
            f"cannot write {shown}: {error.strerror}", fix="choose another --out, or make room"
        ) from error
    finally:
        for parent in made if not done else []:
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextlib.contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in a hidden one in `parent`, where `name` is put together. What is left in it goes at the end."""
    hidden, claim = _hidden_folder(parent, name)
    try:
        (hidden / _NEW).mkdir()
        yield hidden / _NEW
    finally:
        try:
            _clear(hidden, claim)
        except KeyboardInterrupt:  # while it was removed: then it is still to be removed
            _clear(hidden, claim)
            raise
        finally:
            claim.close()


def sweep(parent: Path) -> None:
    """Take away what killed programs left in `parent`, and put back what they were about to replace.

    Only folders that carry our mark, belong to this user, and that nobody alive holds.
    """
    with contextlib.suppress(OSError):
        left = [parent / entry.name for entry in os.scandir(parent) if _NAME.fullmatch(entry.name)]
        for hidden in left:
            claim = None if hidden.is_symlink() else Claim.take_over(hidden / MARK)
            if claim is None:
                # One without a mark is empty: it was made by a program that was killed at once. Others stay.
                with contextlib.suppress(OSError):
                    hidden.rmdir()
                continue
            try:
                _clear(hidden, claim)
            finally:
                claim.close()


def is_about_the_disk(error: OSError) -> bool:
    """Whether it says that nothing more can be written, and not that something is missing."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def _behind_links(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _hidden_folder(parent: Path, name: str) -> tuple[Path, Claim]:
    for _ in range(_ATTEMPTS):
        hidden = Path(tempfile.mkdtemp(prefix=f".{name[:LONGEST_STEM]}-edgetl-", dir=parent))
        with contextlib.suppress(FileNotFoundError):  # a sweep may take it before it has its mark
            claim = Claim.create(hidden / MARK)
            if claim is not None:
                os.write(claim.descriptor, json.dumps({"edgetl": 1, "for": name}).encode())
                os.fsync(claim.descriptor)
                return hidden, claim
    raise FileExistsError(errno.EEXIST, "no free name for a temporary folder")


def _identity(folder: Path, holds: str) -> tuple[int, ...] | None:
    """What tells this folder from another one that takes its place; None when it is not there."""
    try:
        there = folder.lstat()
    except OSError:
        return None
    try:
        inside = (folder / holds).stat()
    except OSError:
        return there.st_dev, there.st_ino
    return there.st_dev, there.st_ino, inside.st_ino, inside.st_mtime_ns


def _put(folder: Path, destination: Path, before: tuple[int, ...] | None, holds: str) -> None:
    """Let `folder` take the place of what was there `before`, or of nothing. Raises OSError; then nothing changed."""
    now = _identity(destination, holds)
    if now is not None and now != before:
        raise FileExistsError(errno.EEXIST, _MEANWHILE)
    if now is None:
        rename_onto_nothing(folder, destination)
    elif exchange(folder, destination):
        if _identity(folder, holds) != before:
            exchange(folder, destination)
            raise FileExistsError(errno.EEXIST, _MEANWHILE)
    else:
        old = folder.with_name(_OLD)
        destination.rename(old)
        try:
            if _identity(old, holds) != before:
                raise FileExistsError(errno.EEXIST, _MEANWHILE)
            rename_onto_nothing(folder, destination)
        except OSError:
            _to_a_free_name(old, destination, first=destination)
            raise
    sync(destination.parent)


def _put_aside(folder: Path, destination: Path, shown: Path, error: OSError) -> OutputError:
    """Keep what was written under a name that is free, and say so."""
    reason = _MEANWHILE if isinstance(error, FileExistsError) else error.strerror
    aside = _to_a_free_name(folder, destination)
    return OutputError(
        f"cannot put {shown} in place: {reason}; it is left as it is, and what was written now is {aside}",
        fix="look at both, and rename the one to keep",
    )


def _to_a_free_name(folder: Path, destination: Path, *, first: Path | None = None) -> Path:
    """Rename `folder` to `first`, or to ``NAME-2``, ``NAME-3`` ...: where nothing is yet."""
    numbered = (destination.with_name(f"{destination.stem}-{n}{destination.suffix}") for n in range(2, _ATTEMPTS))
    for place in [*([] if first is None else [first]), *numbered]:
        with contextlib.suppress(FileExistsError):
            rename_onto_nothing(folder, place)
            sync(place.parent)
            return place
    raise FileExistsError(errno.EEXIST, f"no free name beside {destination}")


def _clear(hidden: Path, claim: Claim) -> None:
    """Take away what is left, of an interrupted writer too: only when nothing of others is in it."""
    if _put_back(hidden, claim):
        _remove(hidden)


def _put_back(hidden: Path, claim: Claim) -> bool:
    """Whether what is left can go.

    Where a program was interrupted or killed when it had moved the old folder away and the new one was not in its
    place yet, the old one is put back before. When nobody can say where it belongs, everything stays.
    """
    old = hidden / _OLD
    if not old.exists() or not (hidden / _NEW).exists():
        return True
    with contextlib.suppress(ValueError, KeyError, TypeError):
        name = str(json.loads(os.pread(claim.descriptor, 2**16, 0))["for"])
        if name not in ("", "..") and name == Path(name).name:
            destination = hidden.parent / name
            _to_a_free_name(old, destination, first=destination)
            return True
    return False


def _to_the_disk(folder: Path) -> None:
    """Every file and every name in `folder`: a power cut after the renaming must not leave empty files."""
    for path, _, files in os.walk(folder):
        for file in files:
            descriptor = os.open(Path(path) / file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync(Path(path))


def _remove(hidden: Path) -> None:
    """The mark last, when all else is gone: what is cut off, or cannot be removed now, is tried at the next start."""
    with contextlib.suppress(OSError):
        for part in (_NEW, _OLD):
            shutil.rmtree(hidden / part, ignore_errors=True)
        if {path.name for path in hidden.iterdir()} <= {MARK}:
            (hidden / MARK).unlink(missing_ok=True)
            hidden.rmdir()
