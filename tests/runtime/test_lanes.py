"""Runs side by side: more sessions once runs have to wait, no more of them than asked for, none for a slow source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_runtime.errors import BundleError, EngineError
from edgetl_runtime.lanes import Lanes
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import FakeSession, Tensors

SPEC = TensorSpec("x", "float32", (1,))
FEEDS = {"x": np.zeros(1, np.float32)}
Compute = Callable[[Mapping[str, npt.NDArray[Any]]], Tensors]


class Opener:
    """Opens sessions that run `compute`, and keeps them with the threads they were opened with."""

    def __init__(self, compute: Compute, *, concurrent: bool = False) -> None:
        self.compute, self.concurrent = compute, concurrent
        self.opened: list[FakeSession] = []
        self.threads: list[int] = []

    def session(self) -> FakeSession:
        session = FakeSession((SPEC,), (SPEC,), self.compute)
        session.concurrent = self.concurrent
        return session

    def __call__(self, threads: int) -> FakeSession:
        self.threads.append(threads)
        self.opened.append(self.session())
        return self.opened[-1]


def same(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    return dict(feeds)


def crowd(lanes: Lanes, runs: int) -> None:
    """So many runs that all want to begin at once; all but the first have to wait if there is one session."""
    with ThreadPoolExecutor(runs) as pool:
        for future in [pool.submit(lanes.run, FEEDS) for _ in range(runs)]:
            future.result()


def slow(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    threading.Event().wait(0.01)
    return dict(feeds)


@pytest.mark.parametrize(
    ("threads", "count", "concurrent", "expected"),
    [
        (4, 4, False, [1, 1, 1, 1]),  # its 4 threads are not used beside those of the lanes
        (4, 2, False, [2, 2]),
        (1, 3, False, [1, 1]),  # the first session is a lane like the others
        (4, 4, True, [1]),
        (1, 4, True, []),
        (4, 1, False, []),
    ],
)
def test_lanes_share_the_cores(threads: int, count: int, concurrent: bool, expected: list[int]) -> None:
    opener = Opener(slow, concurrent=concurrent)
    lanes = Lanes(opener.session(), threads, opener, count=count)
    crowd(lanes, 12)
    lanes.widen()
    lanes.widen()
    assert opener.threads == expected
    lanes.close()


@pytest.mark.parametrize(("threads", "concurrent"), [(3, False), (1, False), (3, True), (1, True)])
def test_as_many_runs_overlap_as_there_are_lanes_and_no_more(threads: int, concurrent: bool) -> None:
    meeting, lock, inside, most = threading.Barrier(3), threading.Lock(), [0], [0]

    def meet(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        if wide.is_set():
            meeting.wait(timeout=20)
        else:
            threading.Event().wait(0.01)
        with lock:
            inside[0] -= 1
        return dict(feeds)

    wide = threading.Event()
    opener = Opener(meet, concurrent=concurrent)
    lanes = Lanes(opener.session(), threads, opener, count=3)
    if not (concurrent and threads == 1):
        crowd(lanes, 12)
        assert most[0] == 1
    lanes.widen()
    wide.set()
    crowd(lanes, 12)
    assert most[0] == 3


def test_runs_that_never_wait_open_nothing() -> None:
    opener = Opener(same)
    lanes = Lanes(opener.session(), 4, opener, count=4)
    for _ in range(100):
        lanes.run(FEEDS)
        lanes.widen()
    assert opener.opened == []


def test_without_a_way_to_open_more_runs_take_turns() -> None:
    alone = threading.Lock()

    def one_at_a_time(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        assert alone.acquire(blocking=False)
        try:
            return slow(feeds)
        finally:
            alone.release()

    lanes = Lanes(Opener(one_at_a_time).session(), 4, None, count=4)
    crowd(lanes, 12)
    lanes.widen()
    crowd(lanes, 12)


def test_a_session_that_does_not_open_is_told_and_runs_take_turns() -> None:
    opener = Opener(slow)

    def fails_at_the_second(threads: int) -> FakeSession:
        if opener.opened:
            raise BundleError("the file is gone")
        return opener(threads)

    lanes = Lanes(opener.session(), 2, fails_at_the_second, count=2)
    crowd(lanes, 12)
    with pytest.warns(RuntimeWarning, match="no second session opens: the file is gone"):
        lanes.widen()
    with pytest.raises(EngineError, match="closed"):
        opener.opened[0].run(FEEDS)
    crowd(lanes, 12)
    lanes.widen()
    assert len(opener.opened) == 1


def test_what_was_opened_is_closed_and_the_first_session_is_not() -> None:
    opener = Opener(slow)
    first = opener.session()
    lanes = Lanes(first, 1, opener, count=2)
    crowd(lanes, 12)
    lanes.widen()
    lanes.close()
    assert first.run(FEEDS)
    with pytest.raises(EngineError, match="closed"):
        opener.opened[0].run(FEEDS)


def test_a_run_that_fails_leaves_its_lane_free() -> None:
    def fails(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        raise EngineError("no")

    lanes = Lanes(Opener(fails).session(), 1, None, count=2)
    for _ in range(3):
        with pytest.raises(EngineError, match="no"):
            lanes.run(FEEDS)
