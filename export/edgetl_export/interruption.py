"""Ctrl-C while somebody else's code runs that may swallow it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interruption_kept"]


@contextmanager
def interruption_kept() -> Iterator[None]:
    """A KeyboardInterrupt that was raised inside is raised again on leaving, when it was lost or became another error.

    It is lost where Python raises it in a callback or a finaliser, and where a converter catches everything. Outside
    the main thread nothing is done: Python lets nobody listen there.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    handler, heard = before, False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        handler(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    except Exception as error:
        if heard:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
