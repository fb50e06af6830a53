"""The one way to put a file in place: whoever reads it sees the old file or the new one, never a part.

The content goes into a file of a random name beside the destination, to the disk, and is renamed. Links are followed.
A pipe or a device is opened and written: it is never replaced. A file that may be written but not replaced (a mount of
its own, a folder without permission) is written where it lies, and gets its old content back when that fails.

Whoever writes holds a lock on the file of the random name. So the next writer in that folder, be it in another
container, knows which ones nobody writes any more, and removes them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgetl_runtime.errors import OutputError

fcntl: Any
try:
    import fcntl
except ImportError:  # no locks: what was left behind stays
    fcntl = None

__all__ = ["LONGEST_STEM", "Claim", "check_writable", "replacing", "sync", "write_file"]

_FIX = "choose a folder that exists, can be written to and has space"
_NAME = re.compile(r"\..*-edgetl-[0-9a-f]{16}\.part")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NOT_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_RENAMED = (errno.EBUSY, errno.EXDEV, errno.EPERM)
_ATTEMPTS = 100
LONGEST_STEM = 50
"""Characters of a name, of at most 4 bytes, that a temporary name has of it: it must not have more than 255 bytes."""

_claimed: set[tuple[int, int]] = set()
"""Device and inode of what this process writes: on some network file systems a lock does not keep out its owner."""


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Put `content` (text as UTF-8) in place of `path`, whole or not at all.

    What UTF-8 cannot hold, the bytes of a file name that is none, is written as an escape. Raises `OutputError`.
    """
    # Before anything is opened: a text that cannot be encoded must not cost the file that is there.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well. Raises `OutputError` for every `OSError`.

    The permissions of a file that is there are kept. When the block fails the old file is there as it was.
    """
    path = Path(path)
    try:
        there = _stat(path)
        shared = None if there is None else _own_stream(there)
        if there is not None and (shared is not None or not stat.S_ISREG(there.st_mode)):
            writer = _through(_opened(path, there) if shared is None else shared)
        else:
            writer = _beside(path, there)
        with writer as file:
            yield file
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", fix=_FIX) from error


def check_writable(path: str | os.PathLike[str], *, option: str = "--json") -> None:
    """`OutputError` when it is plain before the work that `path`, given as `option`, cannot be written."""
    path = Path(path)
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        what = "it is a folder"
    elif path.exists():
        what = "" if os.access(path, os.W_OK) else "there is no permission to write it"
    elif not folder.is_dir():
        what = f"it lies in {folder}, which does not exist"
    else:
        what = "" if os.access(folder, os.W_OK | os.X_OK) else f"there is no permission to write to {folder}"
    if what:
        raise OutputError(f"cannot write {path}: {what}", fix=f"name a file in a folder that exists: {option} FILE")


class Claim:
    """A file that is open for writing and locked: as long as its writer lives, nobody else can `take_over` it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        there = os.fstat(descriptor)
        self._identity = there.st_dev, there.st_ino
        _claimed.add(self._identity)

    @classmethod
    def create(cls, path: Path) -> Claim | None:
        """A new file. None when a sweep took it before it was locked: try another name.

        Raises FileExistsError when there is something, a link too.
        """
        claim = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666))
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(claim.descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(claim.descriptor), path.lstat()):
                    return claim
        except BaseException:
            claim.close()
            raise
        claim.close()
        return None

    @classmethod
    def take_over(cls, path: Path) -> Claim | None:
        """What `create` made and whose writer is gone. None for everything else, and where that cannot be known."""
        if fcntl is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | _NO_FOLLOW)
        except OSError:
            return None
        there = os.fstat(descriptor)
        mine = stat.S_ISREG(there.st_mode) and there.st_uid == os.geteuid()
        if mine and (there.st_dev, there.st_ino) not in _claimed:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(descriptor)
        os.close(descriptor)
        return None

    def close(self) -> None:
        """Let go of it; a second time does nothing."""
        if self.descriptor >= 0:
            _claimed.discard(self._identity)
            os.close(self.descriptor)
            self.descriptor = -1


def sync(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _beside(path: Path, there: os.stat_result | None) -> Iterator[BinaryIO]:
    """Written beside what `path` leads to, and renamed."""
    target = Path(os.path.realpath(path))
    if there is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "there is no permission to write it")
    _sweep(target.parent)
    try:
        temporary, claim = _temporary(target)
    except OSError as error:
        if there is None or error.errno not in _NOT_BESIDE:
            raise
        content = io.BytesIO()
        yield content
        _overwrite(target, content.getvalue())
        return
    try:
        with os.fdopen(os.dup(claim.descriptor), "wb") as file:
            yield file
            file.flush()
            if there is not None:
                _as_it_was(claim.descriptor, there)
            os.fsync(claim.descriptor)
        if fcntl is None:
            claim.close()  # Windows renames nothing that is open
        try:
            temporary.replace(target)
        except OSError as error:
            if there is None or error.errno not in _NOT_RENAMED:
                raise
            _overwrite(target, temporary.read_bytes())
        sync(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        claim.close()


def _random_name(name: str) -> str:
    """A hidden name that nobody can foretell, for what is to become `name`."""
    return f".{name[:LONGEST_STEM]}-edgetl-{os.urandom(8).hex()}.part"


def _temporary(target: Path) -> tuple[Path, Claim]:
    for _ in range(_ATTEMPTS):
        path = target.with_name(_random_name(target.name))
        with suppress(FileExistsError):
            claim = Claim.create(path)
            if claim is not None:
                return path, claim
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file")


def _as_it_was(descriptor: int, there: os.stat_result) -> None:
    """Owner, group and permissions of the file that is replaced, as far as they can be given."""
    if hasattr(os, "fchown"):
        for owner, group in ((there.st_uid, -1), (-1, there.st_gid)):
            with suppress(OSError):
                os.fchown(descriptor, owner, group)
        with suppress(OSError):
            os.fchmod(descriptor, there.st_mode & 0o777)


def _overwrite(target: Path, content: bytes) -> None:
    """For a file that cannot be replaced: written where it lies; its old content is put back when that fails."""
    with os.fdopen(os.open(target, os.O_RDWR | _NO_FOLLOW), "r+b", buffering=0) as file:
        old = file.readall()
        try:
            _write_over(file, content)
        except BaseException:
            with suppress(OSError):
                _write_over(file, old)
            raise


def _write_over(file: io.FileIO, content: bytes) -> None:
    file.seek(0)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    file.truncate()
    os.fsync(file.fileno())


@contextmanager
def _through(descriptor: int) -> Iterator[BinaryIO]:
    """The content, when it is whole, into what is open already."""
    content = io.BytesIO()
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        yield content
        rest = memoryview(content.getvalue())
        while rest:
            rest = rest[file.write(rest) or 0 :]


def _stat(path: Path) -> os.stat_result | None:
    """What `path` leads to; None for nothing, so too for a link into nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _own_stream(there: os.stat_result) -> int | None:
    """A copy of stdout's or stderr's descriptor when that is what is named, as with /dev/stdout: it keeps its place."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(os.fstat(descriptor), there):
                stream.flush()
                return os.dup(descriptor)
    return None


def _opened(path: Path, there: os.stat_result) -> int:
    """The descriptor of a pipe or a device. Raises `OutputError` for a folder, a disk, and a pipe that nobody reads."""
    if stat.S_ISDIR(there.st_mode):
        raise OutputError(f"cannot write {path}: it is a folder", fix="name a file")
    if stat.S_ISBLK(there.st_mode):
        raise OutputError(f"cannot write {path}: it is a whole disk", fix="name a file")
    try:
        # Without waiting: a pipe that nobody reads would hold the program for ever.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(there.st_mode):
            raise OutputError(
                f"cannot write {path}: it is a pipe that nobody reads", fix="start its reader before, or name a file"
            ) from None
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers are gone."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) is None:
                continue
            claim = Claim.take_over(Path(entry.path))
            if claim is not None:
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108
                claim.close()
