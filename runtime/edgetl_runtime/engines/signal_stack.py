"""The stack that signals are handled on, kept as it was while OpenVINO compiles.

OpenVINO gives the thread a signal stack of its own with every model, and puts back the one before when the model goes.
Where the first of two models goes first, the second one puts back memory that is no longer there, and the next signal
- Ctrl-C - ends the process with a segmentation fault (seen with OpenVINO 2026.4 on Linux). With the old stack back at
once, every model only ever puts back a stack that is there.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_signal_stack"]


class _Stack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2) on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Afterwards the thread has the signal stack that it had before. Elsewhere than on Linux nothing is done."""
    call = getattr(ctypes.CDLL(None), "sigaltstack", None) if sys.platform == "linux" else None
    if call is None:
        yield
        return
    before = _Stack()
    call(None, ctypes.byref(before))
    try:
        yield
    finally:
        call(ctypes.byref(before), None)
