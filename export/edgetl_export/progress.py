"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

__all__ = ["Tell", "Track", "silent", "untold"]

T = TypeVar("T")
Tell = Callable[[str], None]
"""Takes a line that a person may want to read."""


class Track(Protocol):
    """Wraps an iterable and shows the way through it: ``for x in track(xs, what="calibrate", total=9)``."""

    def __call__(self, items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
        """The same items, in the same order."""
        ...


def silent(items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
    """The `Track` that shows nothing: the default in the Python API."""
    return items


def untold(line: str) -> None:
    """The `Tell` of those who do not listen."""
