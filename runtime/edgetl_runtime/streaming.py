"""Work on a stream in order, ahead of whoever takes the results, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_ahead"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int
) -> Generator[Future[_Result], None, None]:
    """`work` of every item on `workers` threads, as finished futures in the order of the items.

    At most twice as many items as there are workers are under way or waiting, so an endless stream is fine. A result
    is handed on as soon as it and those before it are ready, also while the next item is not there yet: a slow camera
    is not waited for more than one frame. Items are taken in the caller's thread. Closing the generator stops the
    workers.
    """
    pending: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgetl")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            while pending and (pending[0].done() or len(pending) >= 2 * workers):
                yield _finished(pending)
        while pending:
            yield _finished(pending)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(pending: deque[Future[_Result]]) -> Future[_Result]:
    future = pending.popleft()
    future.exception()  # waits for it
    return future
