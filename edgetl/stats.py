"""Is a difference more than chance? Exact tests for counts of images, bootstrap intervals for the rest.

Nothing here knows of variants or gates; all tests are exact, so they hold for few images too. Intervals are of 95 %, by
drawing again with replacement: B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7
(1979) 1-26. Of times whole rounds are drawn, not runs: runs within a round are alike, for they meet the same state of
the machine. Rounds of two variants are drawn in pairs, for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALPHA",
    "Spread",
    "bootstrap_delta",
    "bootstrap_images",
    "fisher_worse",
    "holm",
    "images_to_decide",
    "is_significant",
    "mcnemar",
    "mcnemar_worse",
    "mean_interval",
    "median_spread",
    "pack_shares",
    "percentile_ratio_spread",
    "percentile_spread",
    "ratio_spread",
    "share_below",
    "unpack_shares",
    "values_interval",
]

ALPHA = 0.05
"""What is less probable than this by chance is called significant."""

RESAMPLES = 2000
_MOST_IMAGES = 1_000_000
_RESAMPLES_OF_ROUNDS = 1000
_SEED = 0
_MOST_OF_A_ROUND = 200
_MOST_DRAWN = 2000  # images
_Z_95 = 1.959963984540054  # the 0.975 quantile of the standard normal distribution
_HALVES = "f2:"

Spread = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def is_significant(p_value: float) -> bool:
    """Whether `p_value` is at most `ALPHA`, up to the rounding of floats."""
    return p_value <= ALPHA * (1 + 1e-9)


def mcnemar(broken: int, repaired: int) -> float:
    """Two-sided exact p value of McNemar's test: could `broken` and `repaired` decisions come from equal models?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947) 153-157; the exact form is the sign test: under equality every changed decision is as likely
    to be broken as repaired, so that `broken` is binomial with 1/2. Decisions that are the same in both say nothing.
    """
    return min(1.0, 2 * min(mcnemar_worse(broken, repaired), mcnemar_worse(repaired, broken)))


def mcnemar_worse(broken: int, repaired: int) -> float:
    """One-sided `mcnemar`: the probability of at least so many broken among the changed ones if none is likelier."""
    return _binomial_tail(broken, broken + repaired, 0.5)


def share_below(successes: int, n: int, limit: float) -> float:
    """Exact p value: the probability of at most `successes` of `n` if each succeeded with probability `limit`.

    The one-sided binomial test of C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits
    illustrated in the case of the binomial", Biometrika 26 (1934) 404-413.
    """
    return _binomial_tail(n - successes, n, min(1.0, max(0.0, 1.0 - limit)))


def fisher_worse(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Exact p value of `after` = (successes, n) being no worse than `before`, for two samples of different images.

    R. A. Fisher, "On the interpretation of chi-squared from contingency tables, and the calculation of P",
    J. Royal Statistical Society 85 (1922) 87-94: the hypergeometric probability of at most so many successes after.
    """
    (right_before, n_before), (right_after, n_after) = before, after
    right, n = right_before + right_after, n_before + n_after
    least = max(0, right - n_before)
    terms = [
        _log_choose(n_after, k) + _log_choose(n_before, right - k) - _log_choose(n, right)
        for k in range(least, right_after + 1)
    ]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` of several tests at once, adjusted so that any of them may be compared with `ALPHA`.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian J. of Statistics 6 (1979) 65-70.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def bootstrap_delta(broken: int, repaired: int, n: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the paired difference (repaired - broken) / n over `n` images.

    Drawing images draws the three counts from a multinomial, so that the images themselves are not needed.
    """
    shares: npt.NDArray[np.float64] = np.array([broken, repaired, n - broken - repaired], np.float64) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    return _interval((drawn[:, 1] - drawn[:, 0]) / n)


def mean_interval(values: npt.NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of `values` (n,), one for each image; of differences it is the paired interval.

    Images are drawn again with replacement; of many images the mean is normal, and its standard error says the same.
    """
    n = len(values)
    if n > _MOST_DRAWN:
        half = _Z_95 * float(values.std()) / math.sqrt(n)
        return float(values.mean()) - half, float(values.mean()) + half
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    return _interval(values[drawn].mean(axis=1))


def bootstrap_images(
    statistic: Callable[[npt.NDArray[np.int64]], float], n: int, *, resamples: int = 300, seed: int = 0
) -> tuple[tuple[float, float], npt.NDArray[np.float64]]:
    """95 % interval of a statistic of `n` images that is no mean over them, such as mAP or mIoU.

    Args:
        statistic: Gives its value where image i is there ``counts[i]`` times, `counts` (n,).
        n: How many images there are.
        resamples: How often images are drawn with replacement.
        seed: The same seed draws the same images, so that the values of two models are pairs.

    Returns:
        The interval, and the value of each draw (resamples,). Values of two models for the same `n` and `seed`, one
        minus the other, give the interval of the paired difference: see `values_interval`.
    """
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    values = np.array([statistic(counts) for counts in drawn], np.float64)
    return values_interval(values), values


def values_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of what `bootstrap_images` gave; values that are NaN (a draw without any object) do not count."""
    known = values[~np.isnan(values)]
    return _interval(known) if len(known) else (float("nan"), float("nan"))


def pack_shares(values: npt.NDArray[Any]) -> str:
    """(n,) shares, 0 to 1, one for each image, as text: where all are 0 or 1 a bit each in hexadecimal, four a digit,
    else ``f2:`` and the hexadecimal digits of 16-bit floats."""
    if np.isin(values, (0, 1)).all():
        return np.packbits(values.astype(np.bool_)).tobytes().hex()
    return _HALVES + values.astype("<f2").tobytes().hex()


def unpack_shares(text: str, n: int) -> npt.NDArray[np.float64] | None:
    """What `pack_shares` was given, ``None`` when `text` does not hold `n` of them."""
    halves = text.startswith(_HALVES)
    try:
        packed = bytes.fromhex(text.removeprefix(_HALVES))
    except ValueError:
        return None
    if len(packed) != (2 * n if halves else (n + 7) // 8):
        return None
    values = np.frombuffer(packed, "<f2") if halves else np.unpackbits(np.frombuffer(packed, np.uint8))[:n]
    return values.astype(np.float64)


def images_to_decide(counts: Sequence[int], n: int, *, test: str, limit: float = 0.0) -> int | None:
    """About how many images would make the same shares significant; `None` beyond a million.

    `counts` are the counts found in `n` images: (broken, repaired) for ``test="mcnemar"``, (successes,) for
    ``test="share"`` against `limit`. The counts are scaled up until the test decides.
    """
    factor = 1.0
    while factor * n <= _MOST_IMAGES:
        scaled = [round(count * factor) for count in counts]
        size = round(n * factor)
        p = mcnemar_worse(*scaled) if test == "mcnemar" else share_below(scaled[0], size, limit)
        if is_significant(p):
            return size
        factor *= 1.1
    return None


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


def _binomial_tail(least: int, n: int, p: float) -> float:
    """P(X >= least) for X binomial with `n` and `p`."""
    if least <= 0:
        return 1.0
    if least > n or p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    # Twelve standard deviations from the mean there is less than a float can hold beside 1.
    reach = 12 * math.sqrt(n * p * (1 - p)) + 12
    first, last = max(least, math.floor(n * p - reach)), min(n, max(least, math.ceil(n * p)) + math.ceil(reach))
    terms = (_log_choose(n, k) + k * log_p + (n - k) * log_q for k in range(first, last + 1))
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


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
    percentiles: npt.NDArray[np.float64] = times[order][reached.argmax(axis=1)]
    return percentiles


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
    return np.random.default_rng(_SEED).integers(0, rounds, size=(_RESAMPLES_OF_ROUNDS, rounds))


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
