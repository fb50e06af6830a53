"""Memory that one layer frees is what the next one gets, while a network is trained on a CPU.

glibc asks the kernel for every block above some 30 MB and gives it back when it is freed, and the kernel clears every
page of it again: with activations of 150 MB that is a quarter of a training step's time.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["memory_reused"]

# Parameters of mallopt(3). The values are what glibc itself has come to once blocks this large were freed.
_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES = -1, 64 << 20
_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 32 << 20
_MMAP_MAX, _MMAP_MAX_BLOCKS = -4, 65536
_NEVER = -1

_lock = threading.Lock()
_users = 0


@contextmanager
def memory_reused() -> Iterator[None]:
    """Inside, the process keeps what it frees; afterwards it goes back to the kernel. Nothing is done without glibc.

    May be nested, and used by several threads.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    _count(libc, 1)
    try:
        yield
    finally:
        _count(libc, -1)


def _count(libc: ctypes.CDLL, more: int) -> None:
    global _users
    with _lock:
        before, _users = _users, _users + more
        if before == 0:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        elif _users == 0:
            libc.mallopt(_MMAP_MAX, _MMAP_MAX_BLOCKS)
            libc.mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
            libc.mallopt(_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
            libc.malloc_trim(0)
