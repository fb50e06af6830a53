"""Work in threads that comes back in order, a little ahead of whoever takes it, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgetl_runtime.machine import usable_cores
from edgetl_runtime.streaming import in_order

__all__ = ["in_threads"]

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(
    parts: Iterable[Part], jobs: Callable[[Part], Sequence[Callable[[], Result]]], *, ahead: int
) -> Iterator[tuple[Part, list[Result]]]:
    """Each part with the results of its jobs, in order, while the jobs of the next `ahead` parts run.

    What a job raises is raised when its part would be due; jobs that have not begun by then never do.
    """
    with ThreadPoolExecutor(max_workers=min(16, usable_cores())) as pool:
        try:
            for part, futures in in_order(
                parts, lambda part: (part, [pool.submit(job) for job in jobs(part)]), most=ahead + 1
            ):
                yield part, [future.result() for future in futures]
        finally:  # a job that failed, or a taker that stops early
            pool.shutdown(wait=False, cancel_futures=True)
