"""SIGTERM (``timeout``, ``docker stop``, a scheduler) ends a command as Ctrl-C does: nothing is left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "exit_code_of", "interruption_behind", "terminable"]


class Terminated(KeyboardInterrupt):
    """Raised where SIGTERM came."""

    number = signal.SIGTERM


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`; a second one ends the process at once.

    Outside the main thread, and where the program listens to SIGTERM itself, nothing is done.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that became `error`; None when there was none.

    Python itself makes a RuntimeError of one that comes while a class is made, and libraries make errors of their own.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt):
            return one
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            waiting += [one.__cause__, one.__context__]
    return None


def exit_code_of(interruption: KeyboardInterrupt) -> int:
    """What a shell gives for a program that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + int(getattr(interruption, "number", signal.SIGINT))
