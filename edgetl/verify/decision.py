"""When a limit counts as missed: a measured value, how sure it is, and the limit.

**Shares of images** (agreement, top-1, top-5) that are below a limit fail when chance alone would hardly do that: when
the exact binomial probability of so few among n images, each right with the limit's probability, is at most 5 %
(Clopper and Pearson 1934, `significance.share_below`).

**Changes of accuracy** are paired, on the same images. A drop fails when it is larger than the limit allows *and* is no
chance: when McNemar's exact one-sided test says that broken decisions outnumber repaired ones (McNemar 1947,
`significance.mcnemar_worse`). With a limit of zero that test decides alone: 3 broken in 367 images are no regression
(p = 0.125), 12 are (p = 0.0002). With -0.02 and 367 images a drop of 8 images fails, one of 7 holds the limit. On 50
images 4 broken (8 %) are not enough to say (p = 0.06); the note says how many images would be.

**Times** (latencies, their ratios, speed-ups) have an interval. All of it within the limit passes, all of it beyond
fails, and one that straddles the limit is undecided: it is measured longer, and if that does not settle it, it passes
and says so.

**Everything else** (SQNR, bytes) is the same in every run and is compared as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetl.verify.significance import images_to_decide, is_significant, mcnemar_worse, share_below

__all__ = ["Decision", "decide_change", "decide_interval", "decide_plain", "decide_share"]


@dataclass(frozen=True)
class Decision:
    """Whether a limit holds, and what that rests on: see `edgetl.verify.report.Check`."""

    passed: bool
    note: str | None = None
    undecided: bool = False
    interval: tuple[float, float] | None = None
    p_value: float | None = None


def decide_plain(holds: bool) -> Decision:
    """A value that does not vary from run to run."""
    return Decision(holds)


def decide_share(value: float, n: int, limit: float) -> Decision:
    """A share of `n` images that must be at least `limit`."""
    if value >= limit:
        return Decision(True)
    successes = round(value * n)
    p_value = share_below(successes, n, limit)
    if is_significant(p_value):
        return Decision(False, p_value=p_value)
    enough = images_to_decide((successes,), n, test="share", limit=limit)
    return Decision(True, _too_few(p_value, n, enough), p_value=p_value)


def decide_change(
    value: float, limit: float, *, broken: int, repaired: int, n: int, interval: tuple[float, float] | None
) -> Decision:
    """A change of accuracy over `n` images that must be at least `limit`; `interval` is only told.

    A limit above zero asks for an improvement, which nobody has before it was shown: it is compared as it is.
    """
    if value >= limit or limit > 0:
        return Decision(value >= limit, interval=interval)
    p_value = mcnemar_worse(broken, repaired)
    if is_significant(p_value):
        return Decision(False, f"{broken} broken, {repaired} repaired", interval=interval, p_value=p_value)
    enough = images_to_decide((broken, repaired), n, test="mcnemar")
    note = f"{broken} broken, {repaired} repaired: {_too_few(p_value, n, enough)}"
    return Decision(True, note, interval=interval, p_value=p_value)


def decide_interval(
    holds: Callable[[float], bool], value: float, interval: tuple[float, float] | None, rounds: int
) -> Decision:
    """A time: `holds` says whether one is within the limit. Without an interval `value` decides."""
    if interval is None:
        return Decision(holds(value))
    low, high = (holds(bound) for bound in interval)
    if low == high:
        return Decision(low, interval=interval)
    note = f"undecided after {rounds} rounds: the 95 % interval {interval[0]:.4g} to {interval[1]:.4g} holds the limit"
    return Decision(True, note, undecided=True, interval=interval)


def _too_few(p_value: float, n: int, enough: int | None) -> str:
    told = "" if enough is None else f"; about {enough} would decide"
    return f"misses the limit, but {n} images do not tell that from chance (p = {p_value:.2g}){told}"
