"""What the command line shows while it works: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from edgetl.training.rank import is_first
from edgetl_runtime.escaping import message

__all__ = ["say", "tell", "track"]

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_WORTH_A_LINE = 2.0


def say(text: str, *, stream: TextIO | None = None) -> None:
    """A message for the person at the other end, on stderr: stdout belongs to results."""
    print(message(text), file=stream or sys.stderr, flush=True)


def tell(text: str) -> None:
    """`say` it, once for all processes that train together."""
    if is_first():
        say(text)


def track(items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
    """An `edgetl_export.progress.Track` for people: a bar on a terminal, a line now and then elsewhere.

    Of several processes the first one shows its own.
    """
    if not is_first():
        return items
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar: Iterable[T] = tqdm(items, desc=f"{what:>12}", total=total, leave=False, dynamic_ncols=True)
        return bar
    return _lines(items, what, total)


def _lines(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = now
            say(f"{what}: {done}/{total} ({now - start:.0f} s)")
    if time.monotonic() - start >= _SECONDS_WORTH_A_LINE:
        say(f"{what}: done ({time.monotonic() - start:.0f} s)")
