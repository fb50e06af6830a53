"""Results in order, ahead of who takes them, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from edgetl_runtime.streaming import map_ahead, map_latest


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


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_was_taken_is_answered_before_the_error_of_the_source(workers: int) -> None:
    """Also what is still under way."""

    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("the camera is gone")

    def work(item: int) -> int:
        time.sleep(0.02)
        return item

    for many in (map_ahead, map_latest):
        found: list[int] = []
        with pytest.raises(OSError, match="gone"):
            found.extend(future.result() for future in many(work, broken(), workers=workers))
        assert found == list(range(5)) if many is map_ahead else found[-1] == 4


def camera(stop: threading.Event, *, every: float = 0.002) -> Iterator[float]:
    """When each frame was taken."""
    while not stop.wait(every):
        yield time.monotonic()


def test_the_latest_frame_is_taken_and_the_others_are_dropped() -> None:
    stop, ages, times = threading.Event(), [], []

    def work(taken: float) -> float:
        ages.append(time.monotonic() - taken)
        time.sleep(0.05)
        return taken

    for future in map_latest(work, camera(stop), workers=2):
        times.append(future.result())
        if len(times) == 10:
            stop.set()
    assert times == sorted(times)
    assert len(times) <= 14  # in that time the camera gave more than a hundred
    assert sorted(ages)[len(ages) // 2] < 0.04


def test_a_slow_taker_gets_no_results_that_are_old() -> None:
    stop, ages = threading.Event(), []
    ready = map_latest(lambda taken: taken, camera(stop), workers=4)
    for _ in range(6):
        time.sleep(0.2)
        ages.append(time.monotonic() - next(ready).result())
    stop.set()
    assert sorted(ages[1:])[2] < 0.1
    ready.close()


def test_the_last_item_of_a_live_source_has_its_result() -> None:
    def work(item: int) -> int:
        time.sleep(0.01)
        return item

    assert [future.result() for future in map_latest(work, range(50), workers=2)][-1] == 49
    assert list(map_latest(work, [], workers=2)) == []


def test_leaving_a_live_source_leaves_no_thread() -> None:
    before, closed = threading.active_count(), []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    ready = map_latest(lambda item: item, source(), workers=3)
    next(ready)
    ready.close()
    assert threading.active_count() == before
    assert closed


def test_a_camera_that_gives_nothing_more_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_runtime.streaming._PARTING", 0.05)
    stop = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        stop.wait()

    ready = map_latest(lambda item: item, stuck(), workers=1)
    assert next(ready).result() == 1  # though no other frame comes
    ready.close()
    stop.set()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RuntimeError("gone")], ids=repr)
def test_a_live_source_that_ends_the_program_does_not_just_end_the_stream(error: BaseException) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(type(error)):
        list(map_latest(lambda item: item, source(), workers=2))
