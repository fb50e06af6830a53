"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

__all__ = ["Track", "silent"]

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable and shows the way through it: ``for x in track(xs, what="calibrate", total=9)``."""

    def __call__(self, items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
        """The same items, in the same order."""
        ...


def silent(items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
    """The `Track` that shows nothing: the default in the Python API."""
    return items
