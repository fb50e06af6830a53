"""Work in threads that comes back in order, a little ahead of whoever takes it, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgetl_runtime.machine import usable_cores

__all__ = ["in_threads"]

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(
    parts: Iterable[Part], jobs: Callable[[Part], Sequence[Callable[[], Result]]], *, ahead: int
) -> Iterator[tuple[Part, list[Result]]]:
    """Each part with the results of its jobs, in order, while the jobs of the next `ahead` parts run.

    What a job raises is raised when its part would be due; jobs that have not begun by then never do.
    """
    waiting: deque[tuple[Part, list[Future[Result]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(16, usable_cores())) as pool:
        try:
            for part in parts:
                waiting.append((part, [pool.submit(job) for job in jobs(part)]))
                if len(waiting) > ahead:
                    yield _finished(waiting)
            while waiting:
                yield _finished(waiting)
        finally:  # a job that failed, or a taker that stops early
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(waiting: deque[tuple[Part, list[Future[Result]]]]) -> tuple[Part, list[Result]]:
    part, futures = waiting.popleft()
    return part, [future.result() for future in futures]
