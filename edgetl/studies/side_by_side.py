"""Models of different bundles timed in turns on this machine, so that their times can be compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np

from edgetl.stats import Spread, median_spread
from edgetl.verify.measure.latency import ROUNDS
from edgetl.verify.measure.system_load import describe_system_load, read_moment
from edgetl_runtime.bench import interleave, settle
from edgetl_runtime.errors import EdgetlError
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
    calls: dict[str, Callable[[], object]] = {}
    failed: dict[int, EdgetlError] = {}
    moments = [read_moment()]
    with ExitStack() as stack:
        for name, (opener, feeds) in contenders.items():
            try:
                session = stack.enter_context(opener())
                call = partial(session.run, feeds)
                settle(call, seconds=seconds)
            except EdgetlError:
                continue
            calls[name] = call
        rounds = interleave(list(calls.values()), seconds=seconds, rounds=ROUNDS, failed=failed.__setitem__)
    moments.append(read_moment())
    found = {
        name: median_spread([float(np.median(times)) for times in own])
        for position, (name, own) in enumerate(zip(calls, rounds, strict=True))
        if position not in failed
    }
    return found, describe_system_load(moments)
