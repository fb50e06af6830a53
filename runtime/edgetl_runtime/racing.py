"""Sessions in a race: each is loaded and run once on its own clock, then they take turns; one that fails drops out.

The turns are short, so that a machine that warms up, slows down or has other work slows them all alike, and their
ratios hold.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np

from edgetl_runtime.batches import filled
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.timing import Stopwatch

__all__ = ["ROUNDS", "Entrant", "Race", "Turns", "interleave", "settle"]

ROUNDS = 8
_ROUNDS_OF_HOPE = 2
_SETTLING_RUNS = 5  # whose median is compared with that of the five before
_SETTLED = 0.05  # how near those medians are to each other


@dataclass(frozen=True)
class Turns:
    """``rounds`` of turns, that take about ``seconds`` of each one in all.

    A turn begins with ``warm_up`` runs that do not count, for another one has had the caches, and has ``least`` runs
    that do, so that a slow one gets a median. After two rounds there are no more turns for one whose fastest run takes
    more than ``hopeless`` times the fastest of all, that of an earlier race (``fastest_ms``) among them.
    """

    seconds: float
    rounds: int = ROUNDS
    warm_up: int = 2
    least: int = 3
    hopeless: float = math.inf
    fastest_ms: float = math.inf


@dataclass(frozen=True)
class Entrant:
    """A session that is open, its input, and the clocks ``load`` and ``first`` (its first run)."""

    session: Session
    feeds: Tensors
    clocks: Stopwatch

    def run(self) -> None:
        """One run; what it gives is nobody's."""
        self.session.run(self.feeds)


class Race:
    """Sessions that are open side by side until it is left, by name.

    One that raises an error of the kinds in `dropping` is out of the race, and ``errors`` has the error; other errors
    end the race.
    """

    def __init__(self, dropping: tuple[type[EdgetlError], ...] = (EdgetlError,)) -> None:
        self.entrants: dict[str, Entrant] = {}
        self.errors: dict[str, EdgetlError] = {}
        self._dropping = dropping
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def running(self) -> dict[str, Entrant]:
        """Those that did not drop out."""
        return {name: entrant for name, entrant in self.entrants.items() if name not in self.errors}

    def enter(self, name: str, opener: Callable[[], Session], feeds: Tensors) -> None:
        """Load it and run it once, which allocates. `feeds` are one image: a fixed batch is filled up, as `predict`
        does, so that times are those that one image takes."""
        clocks = Stopwatch()
        try:
            with clocks("load"):
                session = self._stack.enter_context(opener())
            feeds = {name: filled(session, images) for name, images in feeds.items()}
            with clocks("first"):
                session.run(feeds)
        except self._dropping as error:
            self.errors[name] = error
        else:
            self.entrants[name] = Entrant(session, feeds, clocks)

    def settle(self, *, seconds: float) -> None:
        """Warm all up until their times are stable, for `seconds` each at most."""
        for name, entrant in self.running.items():
            try:
                settle(entrant.run, seconds=seconds)
            except self._dropping as error:
                self.errors[name] = error

    def go(self, turns: Turns, names: Iterable[str] | None = None) -> dict[str, list[list[float]]]:
        """Milliseconds by round of those of `names`, by default of all, that do not drop out."""
        asked = [name for name in (self.entrants if names is None else names) if name not in self.errors]

        def failed(place: int, error: EdgetlError) -> None:
            if not isinstance(error, self._dropping):
                raise error
            self.errors[asked[place]] = error

        rounds = interleave([self.entrants[name].run for name in asked], turns, failed=failed)
        return {name: own for name, own in zip(asked, rounds, strict=True) if name not in self.errors}


def interleave(
    calls: Sequence[Callable[[], object]],
    turns: Turns,
    *,
    failed: Callable[[int, EdgetlError], None] | None = None,
) -> list[list[list[float]]]:
    """Time every call of `calls` in `turns`: milliseconds by call, then by round. Every other round goes backwards, so
    that a steady drift favours neither the first nor the last.

    A call that raises an `EdgetlError` is left out from there on and `failed` is told its position; without `failed`
    the error ends the measurement.
    """
    times: list[list[list[float]]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for number in range(turns.rounds):
        if number >= _ROUNDS_OF_HOPE and turns.hopeless < math.inf:
            fastest = {place: min(itertools.chain(*times[place])) for place in order}
            limit = turns.hopeless * min(turns.fastest_ms, *fastest.values()) if fastest else 0.0
            order = [place for place in order if fastest[place] <= limit]
        for place in tuple(order):
            try:
                times[place].append(_turn(calls[place], turns))
            except EdgetlError as error:
                if failed is None:
                    raise
                failed(place, error)
                order.remove(place)
        order.reverse()
    return times


def settle(call: Callable[[], object], *, seconds: float = 1.0) -> None:
    """Run `call` until its time is stable: five runs whose median is within 5 % of the median of the five before.

    Gives up after `seconds`, on a machine that never settles.
    """
    end, before = time.perf_counter_ns() + int(seconds * 1e9), 0.0
    while True:
        times = []
        for _ in range(_SETTLING_RUNS):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        now = float(np.median(times))
        if abs(now - before) <= _SETTLED * before or time.perf_counter_ns() >= end:
            return
        before = now


def _turn(call: Callable[[], object], turns: Turns) -> list[float]:
    for _ in range(turns.warm_up):
        call()
    times: list[float] = []
    before = time.perf_counter_ns()
    end = before + int(turns.seconds / turns.rounds * 1e9)
    while before < end or len(times) < turns.least:
        call()
        after = time.perf_counter_ns()
        times.append((after - before) / 1e6)
        before = after
    return times
