"""Sessions that take turns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from edgetl_runtime.errors import BundleError, EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.racing import Race, Turns, interleave
from edgetl_runtime.session import FakeSession, Tensors

IMAGE, LOGITS = TensorSpec("image", "uint8", (1, 2, 2, 3)), TensorSpec("logits", "float32", (1, 2))
FEEDS: Tensors = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
ANSWER = {"logits": np.zeros((1, 2), np.float32)}


class Clock:
    """Time that passes only when something runs."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.runs: list[str] = []

    def call(self, name: str, milliseconds: int, *, most: int = 1_000_000) -> Callable[..., Tensors]:
        def run(feeds: Mapping[str, Any] | None = None) -> Tensors:
            self.now_ms += milliseconds
            self.runs.append(name)
            if self.runs.count(name) > most:
                raise EngineError(f"{name} gave up")
            return ANSWER

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", lambda: made.now_ms * 1_000_000)
    return made


def test_calls_take_turns_there_and_back() -> None:
    turns: list[str] = []

    def call(name: str) -> Callable[[], None]:
        return lambda: turns.append(name)

    times = interleave([call("a"), call("b")], Turns(1e-9, rounds=3))
    assert [name for name, _ in itertools.groupby(turns)] == ["a", "b", "a", "b"]
    assert [[len(rounds) for rounds in found] for found in times] == [[3, 3, 3], [3, 3, 3]]
    assert turns.count("a") > 9, "every turn begins with runs that do not count"


def test_every_call_gets_its_own_time_for_as_long_as_asked(clock: Clock) -> None:
    slow, fast = interleave([clock.call("slow", 5), clock.call("fast", 1)], Turns(0.1, rounds=2))
    assert slow == [[5.0] * 10] * 2
    assert fast == [[1.0] * 50] * 2


@pytest.mark.parametrize(("fastest_ms", "rounds"), [(float("inf"), (5, 5, 2)), (2.0, (5, 2, 2)), (0.5, (2, 2, 2))])
def test_the_hopeless_get_two_rounds(clock: Clock, fastest_ms: float, rounds: tuple[int, ...]) -> None:
    calls = [clock.call("a", 4), clock.call("b", 8), clock.call("c", 9)]
    turns = Turns(0.0, rounds=5, warm_up=0, least=1, hopeless=2.0, fastest_ms=fastest_ms)
    assert tuple(map(len, interleave(calls, turns))) == rounds


def test_without_anybody_to_tell_an_error_ends_the_turns(clock: Clock) -> None:
    with pytest.raises(EngineError, match="a gave up"):
        interleave([clock.call("a", 1, most=4), clock.call("b", 1)], Turns(0.0))


@pytest.mark.parametrize("most", [0, 1, 5, 14])
def test_who_fails_drops_out_of_the_race(clock: Clock, most: int) -> None:
    with Race() as race:
        for name, runs in (("sound", 1_000_000), ("weak", most)):
            race.enter(name, partial(FakeSession, (IMAGE,), (LOGITS,), clock.call(name, 1, most=runs)), FEEDS)
        race.settle(seconds=1.0)
        rounds = race.go(Turns(0.0, rounds=3))
    assert list(rounds) == list(race.running) == ["sound"]
    assert [len(times) for times in rounds["sound"]] == [3, 3, 3]
    assert {name: error.what for name, error in race.errors.items()} == {"weak": "weak gave up"}
    assert clock.runs.count("weak") == most + 1, "it is not asked again"


def test_errors_that_nobody_expects_end_the_race() -> None:
    def damaged() -> FakeSession:
        raise BundleError("a file is damaged")

    with pytest.raises(BundleError), Race(dropping=(EngineError,)) as race:
        race.enter("a", damaged, FEEDS)
    with Race(dropping=()) as race:
        race.enter("b", partial(FakeSession, (IMAGE,), (LOGITS,), Clock().call("b", 1, most=1)), FEEDS)
        with pytest.raises(EngineError):
            race.go(Turns(0.0))
