"""Runs of one variant side by side: one engine on all cores is slower than an engine for each core."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.session import Session, Tensors

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Lanes"]

_PATIENCE = 8  # runs that have to wait before more sessions are opened


class Lanes:
    """Sessions of one variant that several threads run at once.

    At first there is only `session`, and runs take turns. When runs have had to wait, `widen` replaces it by one for
    each of `count` threads, opened by ``open_lane(threads)`` with an equal share of the `threads` that `session` uses;
    an engine whose runs overlap within a session needs just one. So images that come more slowly than they are
    answered, as from most cameras, cost no second session. Without `open_lane` runs go on taking turns.
    """

    def __init__(
        self, session: Session, threads: int, open_lane: Callable[[int], Session] | None, *, count: int
    ) -> None:
        self._threads = max(1, threads // count)
        self._count = count
        self._opened: list[Session] = []
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waits = 0
        self._keep = threads == self._threads
        if self._keep and session.concurrent:
            self._put([session])
            self._open_lane = None
        else:
            self._free.put(session)
            self._open_lane = None if count == 1 else open_lane

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """`Session.run` in whichever lane is free."""
        try:
            session = self._free.get_nowait()
        except queue.Empty:
            self._waits += 1
            session = self._free.get()
        try:
            return session.run(feeds)
        finally:
            self._free.put(session)

    def widen(self) -> None:
        """Open the other sessions if runs have had to wait for want of them. If that fails, runs go on taking turns,
        and a RuntimeWarning says why."""
        with self._lock:
            open_lane = self._open_lane
            if open_lane is None or self._waits < _PATIENCE:
                return
            self._open_lane = None
        try:
            self._opened.append(open_lane(self._threads))
            while not self._opened[0].concurrent and len(self._opened) + self._keep < self._count:
                self._opened.append(open_lane(self._threads))
        except EdgetlError as error:
            self.close()
            warnings.warn(f"runs take turns, no second session opens: {error.what}", RuntimeWarning, stacklevel=2)
            return
        if not self._keep:
            self._free.get()  # its threads would be more than there are cores
        self._put(self._opened)

    def close(self) -> None:
        """Close what was opened here; the first session is its owner's."""
        for session in self._opened:
            session.close()

    def _put(self, sessions: list[Session]) -> None:
        for session in sessions * self._count if sessions[0].concurrent else sessions:
            self._free.put(session)
