"""Renaming a folder without losing another: onto nothing, or by exchange.

Linux does both in one step (``renameat2``) where the file system can. Elsewhere ``rename`` replaces an empty folder at
the most, and there is no exchange.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["exchange", "rename_onto_nothing"]

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""What a kernel, a file system or a sandbox says that does not know the flags."""


def rename_onto_nothing(folder: Path, destination: Path) -> None:
    """Rename a folder. Raises FileExistsError when there is something at `destination`, and the system's OSError."""
    if _renameat2(folder, destination, _NOREPLACE):
        return
    try:
        folder.rename(destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(destination)) from error
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step. False where that cannot be done; raises the system's OSError."""
    return _renameat2(one, other, _EXCHANGE)


def _renameat2(one: Path, other: Path, flags: int) -> bool:
    """False where there is no such call; OSError where it failed."""
    call = _system_call()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _system_call() -> Any:
    if sys.platform != "linux":
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call
