"""Sessions in a forked process (gunicorn --preload, multiprocessing): a fork has none of the engine's threads.

An engine waits for its threads when it runs, and when it is let go. In a fork it would wait for ever. So a fork never
touches the engine that it inherits: that is left in memory on purpose, and the session is opened anew when it is used,
from the same bytes with the same options.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from edgetl_runtime.errors import EdgetlError

if TYPE_CHECKING:
    from edgetl_runtime.engines.binding import ModelBytes, ModelPath
    from edgetl_runtime.session import Session

    _Opener: TypeAlias = Callable[[ModelBytes | ModelPath], Session]

__all__ = ["open_again", "prepare", "prepare_to_read"]


class _Origin:
    """How a session is opened again: ``opener`` opens the model that ``read`` gives.

    Before the first fork it is read and kept, since the files may be others by the time a worker starts; a process that
    never forks keeps nothing.
    """

    def __init__(self, opener: _Opener, model: ModelBytes | ModelPath) -> None:
        self.opener = opener
        self.read: Callable[[], ModelBytes | ModelPath] = lambda: model
        self._kept: ModelBytes | ModelPath | EdgetlError | None = None

    def keep(self) -> None:
        if self._kept is None:
            try:
                self._kept = self.read()
            except EdgetlError as error:  # told when it is needed
                self._kept = error

    def again(self) -> Session:
        self.keep()
        if isinstance(self._kept, EdgetlError):
            raise self._kept
        assert self._kept is not None
        return self.opener(self._kept)


_origins: weakref.WeakKeyDictionary[Session, _Origin] = weakref.WeakKeyDictionary()
_opening = threading.Lock()


def prepare(session: Session, opener: _Opener, model: ModelBytes | ModelPath) -> None:
    """Make `session`, which ``opener(model)`` gave, one that a forked process can use."""
    _origins[session] = _Origin(opener, model)


def prepare_to_read(session: Session, read: Callable[[], ModelBytes | ModelPath]) -> None:
    """Let go the bytes that `session` was opened from: a process that forks reads them again."""
    if session in _origins:
        _origins[session].read = read


def open_again(session: Session) -> None:
    """Give a session that a forked process inherited an engine of its own. Raises what opening it can raise."""
    with _opening:  # threads may come to it at the same time
        if session.inherited is not None:
            vars(session).update(vars(_origins[session].again()))
            session.inherited = None


def _before_fork() -> None:
    for session, origin in list(_origins.items()):
        if not session.closed:
            origin.keep()


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()
    inherited = [session for session in list(_origins) if not session.closed]
    for session in inherited:
        for part in vars(session).values():  # one reference too many: not destroyed at the end of the process either
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))
        session.inherited = open_again


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
