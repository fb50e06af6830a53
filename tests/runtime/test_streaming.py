"""Results in order, ahead of who takes them, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from edgetl_runtime.streaming import map_ahead


def test_order_is_kept_whatever_finishes_first() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0.0)
        return item * 10

    assert [future.result() for future in map_ahead(work, range(20), workers=4)] == [item * 10 for item in range(20)]


def test_endless_stream_is_taken_only_a_little_ahead() -> None:
    taken = []

    def endless() -> Iterator[int]:
        item = 0
        while True:
            taken.append(item)
            yield item
            item += 1

    ready = map_ahead(lambda item: item, endless(), workers=2)
    for expected in range(50):
        assert next(ready).result() == expected
        assert len(taken) <= expected + 1 + 2 * 2
    ready.close()


def test_slow_source_is_not_waited_for_beyond_the_next_item() -> None:
    pulled = []

    def camera() -> Iterator[int]:
        for frame in range(5):
            pulled.append(frame)
            yield frame
            time.sleep(0.05)  # the next frame is not there yet

    for future in map_ahead(lambda item: item, camera(), workers=4):
        assert pulled[-1] <= future.result() + 1


def test_work_overlaps() -> None:
    meeting = threading.Barrier(3, timeout=5)
    assert len(list(map_ahead(lambda item: meeting.wait(), range(3), workers=3))) == 3
    assert not meeting.broken


def test_error_stands_in_its_place_and_the_rest_goes_on() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("no")
        return item

    found = [future.exception() or future.result() for future in map_ahead(work, range(5), workers=2)]
    assert [item for item in found if not isinstance(item, ValueError)] == [0, 1, 3, 4]
    assert isinstance(found[2], ValueError)


def test_closing_early_leaves_no_thread() -> None:
    before = threading.active_count()
    ready = map_ahead(lambda item: item, iter(int, 1), workers=3)
    next(ready)
    ready.close()
    assert threading.active_count() == before


def test_error_of_the_source_reaches_the_caller() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the camera is gone")

    ready = map_ahead(lambda item: item, broken(), workers=2)
    with pytest.raises(OSError, match="gone"):
        list(ready)
