"""How sure a measured time is: 95 % intervals by resampling whole rounds.

B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979) 1-26. Runs within a round
are alike, for they meet the same state of the machine: rounds are drawn, not runs. Rounds of two variants are drawn in
pairs, for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Spread", "median_spread", "percentile_ratio_spread", "percentile_spread", "ratio_spread"]

Spread = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""

_RESAMPLES = 1000
_SEED = 0
_MOST_OF_A_ROUND = 200


def median_spread(values: Sequence[float]) -> Spread:
    """The median of `values`, one of each round."""
    numbers = np.asarray(values, np.float64)
    return float(np.median(numbers)), _interval(np.median(numbers[_draws(len(numbers))], axis=1))


def ratio_spread(own: Sequence[float], other: Sequence[float]) -> Spread:
    """The median over rounds of the ratio of `own` to `other`, one value of each round, the same rounds."""
    return median_spread([a / b for a, b in zip(own, other, strict=True)])


def percentile_spread(rounds: Sequence[Sequence[float]], percent: float) -> Spread:
    """The percentile over the runs of all `rounds`."""
    draws = _draws(len(rounds))
    return _percentile(rounds, percent), _interval(_percentiles(rounds, percent, draws))


def percentile_ratio_spread(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]], percent: float) -> Spread:
    """The percentile over all runs of `own`, over that of `other`; both of the same rounds."""
    draws = _draws(len(own))
    drawn = _percentiles(own, percent, draws) / _percentiles(other, percent, draws)
    return _percentile(own, percent) / _percentile(other, percent), _interval(drawn)


def _percentile(rounds: Sequence[Sequence[float]], percent: float) -> float:
    return float(np.percentile(np.concatenate([np.asarray(times, np.float64) for times in rounds]), percent))


def _percentiles(
    rounds: Sequence[Sequence[float]], percent: float, draws: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The percentile of each draw of rounds, (resamples,): the least run that so many are not above."""
    thinned = [_thinned(runs) for runs in rounds]
    times = np.concatenate(thinned)
    round_of = np.repeat(np.arange(len(rounds)), [len(runs) for runs in thinned])
    order = np.argsort(times)
    # How often each round was drawn is how often each of its runs counts.
    drawn = np.stack([np.bincount(row, minlength=len(rounds)) for row in draws])
    counted = np.cumsum(drawn[:, round_of[order]], axis=1)
    reached = counted >= counted[:, -1:] * (percent / 100)
    found: npt.NDArray[np.float64] = times[order][reached.argmax(axis=1)]
    return found


def _thinned(runs: Sequence[float]) -> npt.NDArray[np.float64]:
    """At most `_MOST_OF_A_ROUND` of a round's runs, evenly of those in order: percentiles stay, to half a percent.

    A network of microseconds has thousands of runs in a round, and each resample looks at all.
    """
    times = np.sort(np.asarray(runs, np.float64))
    if len(times) <= _MOST_OF_A_ROUND:
        return times
    return times[np.linspace(0, len(times) - 1, _MOST_OF_A_ROUND).round().astype(np.int64)]


def _draws(rounds: int) -> npt.NDArray[np.int64]:
    """(resamples, rounds) indices of rounds."""
    return np.random.default_rng(_SEED).integers(0, rounds, size=(_RESAMPLES, rounds))


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
