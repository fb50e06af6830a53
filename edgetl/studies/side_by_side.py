"""Models of different bundles timed in turns on this machine, so that their times can be compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgetl.stats import Spread, median_spread
from edgetl.verify.measure.latency import ROUNDS
from edgetl.verify.measure.system_load import describe_system_load, read_moment
from edgetl_runtime.racing import Race, Turns
from edgetl_runtime.session import Session, Tensors

__all__ = ["Contender", "time_side_by_side"]

Contender = tuple[Callable[[], Session], Tensors]
"""What opens a model, and its input: one image."""


def time_side_by_side(
    contenders: Mapping[str, Contender], *, seconds: float = 1.0
) -> tuple[dict[str, Spread], tuple[str, ...]]:
    """Median milliseconds of one image with a 95 % interval, by name, after `seconds` of runs each; and disturbances.

    A round counts by its median, as in `edgetl.verify.measure.latency`. A model that cannot be run is left out.
    """
    moments = [read_moment()]
    with Race() as race:
        for name, (opener, feeds) in contenders.items():
            race.enter(name, opener, feeds)
        race.settle(seconds=seconds)
        rounds = race.go(Turns(seconds, rounds=ROUNDS))
    moments.append(read_moment())
    medians = {name: median_spread([float(np.median(times)) for times in own]) for name, own in rounds.items()}
    return medians, describe_system_load(moments)
