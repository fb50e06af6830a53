"""Work on a stream in order, ahead of whoever takes the results, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["in_order", "map_ahead", "map_latest", "map_together"]

_Item = TypeVar("_Item")
_Kept = TypeVar("_Kept")
_Result = TypeVar("_Result")
_THREADS = "edgetl"
_PARTING = 1.0  # seconds that a source gets for its last item when nobody wants it any more


def map_ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int
) -> Generator[Future[_Result], None, None]:
    """`work` of every item on `workers` threads, as finished futures in the order of the items.

    At most twice as many items as there are workers are under way or waiting, so an endless stream is fine. A result
    is handed on as soon as it and those before it are ready, also while the next item is not there yet: a slow camera
    is not waited for more than one frame. Items are taken in the caller's thread; what taking them raises comes after
    the results of those that were taken. Closing the generator stops the workers.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=_THREADS)
    try:
        started = in_order(items, lambda item: (None, [pool.submit(work, item)]), most=2 * workers, eager=True)
        for _, (future,) in started:
            yield future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_together(
    read: Callable[[_Item], _Kept],
    run: Callable[[Sequence[_Kept]], Sequence[_Result]],
    items: Iterable[_Item],
    *,
    workers: int,
    most: int,
) -> Generator[Future[_Result], None, None]:
    """`map_ahead` in two steps: `read` of every item, and one `run` of all that are read, `most` of them at once.

    Results are the same as if each were run alone. A run begins when there are `most`, or when nothing else is being
    read: a slow source waits for nobody. Twice `most` more items are under way than in `map_ahead`, for the next run is
    gathered during one. What `read` raises is
    its item's, what `run` raises that of all it was given.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=_THREADS)
    together = _Together(read, run, most)

    def start(item: _Item) -> tuple[None, Sequence[Future[_Result]]]:
        future: Future[_Result] = Future()
        together.expect()
        pool.submit(together.work, item, future)
        return None, [future]

    try:
        for _, (future,) in in_order(items, start, most=2 * (workers + most), eager=True):
            yield future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Together(Generic[_Item, _Kept, _Result]):
    """What was read and waits for its run, and who runs: one worker at a time, so that others read on meanwhile."""

    def __init__(
        self, read: Callable[[_Item], _Kept], run: Callable[[Sequence[_Kept]], Sequence[_Result]], most: int
    ) -> None:
        self._read, self._run, self._most = read, run, most
        self._waiting: deque[tuple[_Kept, Future[_Result]]] = deque()
        self._lock = threading.Lock()
        self._unread = 0
        self._running = False

    def expect(self) -> None:
        """One more item is coming."""
        with self._lock:
            self._unread += 1

    def work(self, item: _Item, future: Future[_Result]) -> None:
        """Read the item, and run what is ready when nobody else does."""
        try:
            content = self._read(item)
        except BaseException as error:  # noqa: BLE001 - raised where results are taken
            future.set_exception(error)
            taken = self._take(finished=None)
        else:
            taken = self._take(finished=(content, future))
        while taken:
            try:
                results = self._run([content for content, _ in taken])
            except BaseException as error:  # noqa: BLE001 - raised where results are taken
                for _, waiting in taken:
                    waiting.set_exception(error)
            else:
                for (_, waiting), result in zip(taken, results, strict=True):
                    waiting.set_result(result)
            taken = self._take_more()

    def _take(self, finished: tuple[_Kept, Future[_Result]] | None) -> list[tuple[_Kept, Future[_Result]]]:
        with self._lock:
            self._unread -= 1
            if finished is not None:
                self._waiting.append(finished)
            return [] if self._running else self._ready()

    def _take_more(self) -> list[tuple[_Kept, Future[_Result]]]:
        with self._lock:
            return self._ready()

    def _ready(self) -> list[tuple[_Kept, Future[_Result]]]:
        """What is to be run now; nothing while more is about to come."""
        full = len(self._waiting) >= self._most or not self._unread
        taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))] if full else []
        self._running = bool(taken)
        return taken


def in_order(
    items: Iterable[_Item],
    start: Callable[[_Item], tuple[_Kept, Sequence[Future[_Result]]]],
    *,
    most: int,
    eager: bool = False,
) -> Generator[tuple[_Kept, Sequence[Future[_Result]]], None, None]:
    """What `start` gives for each item, in their order, when its futures are finished; `most` items at once.

    The first is handed on when `most` have been taken, so that work is always ahead; where it is `eager`, as soon as it
    is ready. What taking an item raises comes after those that were taken.
    """
    pending: deque[tuple[_Kept, Sequence[Future[_Result]]]] = deque()
    source, failure = iter(items), None
    while True:
        try:
            item = next(source)
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001 - the source's own, raised below
            failure = error
            break
        pending.append(start(item))
        while pending and (len(pending) >= most or (eager and all(future.done() for future in pending[0][1]))):
            yield _finished(pending)
    while pending:
        yield _finished(pending)
    if failure is not None:
        raise failure


def _finished(
    pending: deque[tuple[_Kept, Sequence[Future[_Result]]]],
) -> tuple[_Kept, Sequence[Future[_Result]]]:
    kept, futures = pending.popleft()
    for future in futures:
        future.exception()  # waits for it
    return kept, futures


def map_latest(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int
) -> Generator[Future[_Result], None, None]:
    """`map_ahead` for a live source: a worker that is free takes the newest item, and those before it are dropped.

    Items are taken in a thread of their own, so that none waits in the source. A result that waited longer for its
    taker than it took to make is dropped when a newer item is there. The last item always has its result.
    """
    changed = threading.Condition()
    newest = _Newest(items, changed)
    pending: deque[_Run[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix=_THREADS)
    try:
        while True:
            with changed:
                changed.wait_for(
                    lambda: (
                        (newest.waiting and len(pending) < workers)
                        or (pending and pending[0].future.done())
                        or (newest.ended and not newest.waiting and not pending)
                    )
                )
                if newest.waiting:
                    while pending and pending[0].is_overdue():
                        pending.popleft()
                taken = [newest.waiting.pop()] if newest.waiting and len(pending) < workers else []
            if taken:
                pending.append(_Run(pool.submit(work, taken[0]), changed))
            elif pending:
                yield pending.popleft().future
            else:
                break
        if newest.failure is not None:
            raise newest.failure
    finally:
        newest.leave()
        pool.shutdown(wait=True, cancel_futures=True)


class _Run(Generic[_Result]):
    """An item under way; ``changed`` is told when it is done."""

    def __init__(self, future: Future[_Result], changed: threading.Condition) -> None:
        self.future = future
        self._changed = changed
        self._began, self._ended = time.monotonic(), 0.0
        future.add_done_callback(self._end)

    def is_overdue(self) -> bool:
        """Whether it is done, and has waited longer than it took."""
        return bool(self._ended) and time.monotonic() - self._ended > self._ended - self._began

    def _end(self, _: Future[_Result]) -> None:
        with self._changed:
            self._ended = time.monotonic()
            self._changed.notify_all()


class _Newest(Generic[_Item]):
    """The newest item of a source: ``waiting`` holds it, or nothing when it was taken. ``ended``: there will be none
    after it, because of ``failure`` if there is one. A thread reads the source; ``changed`` guards and tells."""

    def __init__(self, items: Iterable[_Item], changed: threading.Condition) -> None:
        self.waiting: list[_Item] = []
        self.ended = False
        self.failure: BaseException | None = None
        self._left = False
        self._changed = changed
        # A daemon: a camera that gives nothing more must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, args=(items,), name=f"{_THREADS}-source", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Read no more. A source that is just waiting for its next item is left to it."""
        with self._changed:
            self._left = True
        self._thread.join(_PARTING)

    def _read(self, items: Iterable[_Item]) -> None:
        try:
            for item in items:
                with self._changed:
                    if self._left:
                        return
                    self.waiting = [item]
                    self._changed.notify_all()
        # All of them: one that asks the program to end would only end this thread, as if there were no more items.
        except BaseException as error:  # noqa: BLE001 - the source's own, raised where results are taken
            self.failure = error
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()
