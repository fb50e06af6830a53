"""A pool gives every thread an item of its own, makes no more than it may, and lets nobody wait for ever."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgetl_runtime.engines.pool import Pool


def numbers(most: int) -> tuple[Pool[int], list[int]]:
    """A pool of 0, 1, 2 ..., and those that were made so far."""
    made: list[int] = [0]
    counter = itertools.count(1)

    def make() -> int:
        made.append(next(counter))
        return made[-1]

    return Pool(0, make, most), made


@pytest.mark.parametrize("most", [1, 3])
def test_no_item_is_taken_twice_and_no_more_are_made_than_may_be(most: int) -> None:
    pool, made = numbers(most)
    taken: set[int | None] = set()

    def use(_: int) -> bool:
        with pool.one() as item:
            alone = item not in taken
            taken.add(item)
            time.sleep(0.001)
            taken.discard(item)
        return alone

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(100)))
    assert len(made) <= most


def test_items_are_made_when_all_are_taken() -> None:
    pool, made = numbers(2)
    with pool.one():
        assert made == [0]
        with pool.one() as second:
            assert (second, made) == (1, [0, 1])
    with pool.one():
        assert made == [0, 1]


def test_an_item_comes_back_from_a_failure() -> None:
    pool, _ = numbers(1)
    with pytest.raises(ZeroDivisionError), pool.one():
        raise ZeroDivisionError
    with pool.one() as item:
        assert item == 0


def test_who_waits_for_a_closed_pool_gets_none() -> None:
    pool, _ = numbers(1)
    waits, got = threading.Event(), []

    def wait() -> None:
        waits.set()
        with pool.one() as item:
            got.append(item)

    with pool.one():
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait(5)
        pool.close()
        thread.join(5)
    assert got == [None]
    with pool.one() as item:
        assert item is None
