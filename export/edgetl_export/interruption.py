"""Ctrl-C and SIGTERM while somebody else's code runs that may swallow them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edgetl_runtime.termination import Terminated

__all__ = ["interruption_kept"]

_RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextmanager
def interruption_kept() -> Iterator[None]:
    """A KeyboardInterrupt that was raised inside is raised again on leaving, when it was lost or became another error.

    It is lost where Python raises it in a callback or a finaliser, and where a converter catches everything. A signal
    that nobody in Python listens to is left alone, and outside the main thread nothing is done: Python lets nobody
    listen there.
    """
    handlers = {number: handler for number in _RAISED if callable(handler := signal.getsignal(number))}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    heard: list[signal.Signals] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(signal.Signals(number))
        handlers[heard[-1]](number, frame)

    for number in handlers:
        signal.signal(number, hear)
    try:
        yield
    except Exception as error:
        if heard:
            raise _RAISED[heard[-1]] from error
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if heard:
        raise _RAISED[heard[-1]]
