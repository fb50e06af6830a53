"""What can run one thing at a time - an interpreter, an infer request - for several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["Pool"]

_Item = TypeVar("_Item")


class Pool(Generic[_Item]):
    """Up to ``most`` items, of which `first` is there and the others are made when all are taken. Threads that find
    none wait for one."""

    def __init__(self, first: _Item, make: Callable[[], _Item], most: int = 1) -> None:
        self._idle = [first]
        self._make = make
        self._left = most - 1
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[_Item | None]:
        """An item that is nobody else's meanwhile; None when the pool is closed."""
        item = self._take()
        try:
            yield item
        finally:
            with self._changed:
                if item is not None and not self._closed:
                    self._idle.append(item)
                    self._changed.notify()

    def close(self) -> None:
        """Let the items go: those that are taken go when they come back."""
        with self._changed:
            self._closed = True
            self._idle.clear()
            self._changed.notify_all()

    def _take(self) -> _Item | None:
        with self._changed:
            while not self._closed and not self._idle and not self._left:
                self._changed.wait()
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            self._left -= 1
        return self._make()
