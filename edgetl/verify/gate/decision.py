"""When a limit counts as missed: a measured value, how sure it is, and the limit.

**Shares of images** (agreement, top-1, top-5) that are below a limit fail when chance alone would hardly do that: when
the exact binomial probability of so few among n images, each right with the limit's probability, is at most 5 %
(Clopper and Pearson 1934, `significance.share_below`).

**Changes of accuracy** are paired, on the same images. A drop fails when it is larger than the limit allows *and* is no
chance: when McNemar's exact one-sided test says that broken decisions outnumber repaired ones (McNemar 1947,
`significance.mcnemar_worse`). With a limit of zero that test decides alone: 3 broken in 367 images are no regression
(p = 0.125), 12 are (p = 0.0002). With -0.02 and 367 images a drop of 8 images fails, one of 7 holds the limit. On 50
images 4 broken (8 %) are not enough to say (p = 0.06); the note says how many images would be.

**Means over images** of other tasks, where an image may be right in part, and changes of them fail when the limit lies
above all of the 95 % interval, that of changes paired image by image.

A limit that no share can reach (above 1) fails: chance excuses only what more images could show to be within.

**Times** (latencies, their ratios, speed-ups) have an interval. All of it within the limit passes, all of it beyond
fails, and one that straddles the limit is undecided: it is measured longer, and if that does not settle it, it passes
and says so.

On a machine that is busy with other work the interval is too narrow, for all rounds suffer alike. The kernel says for
which share w of the time the process waited for a core. A run may have waited for more or less than that, one by one,
so that a time or a ratio may be wrong by a factor of 1 / (1 - w) to either side. It fails when even that does not bring
it within the limit. It passes when twice that (the limit may come from such a machine too) does not bring it beyond.
In between it is undecided. Without a wait this is the rule above.

**Everything else** (SQNR, bytes) is the same in every run and is compared as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetl.stats import images_to_decide, is_significant, mcnemar_worse, share_below

__all__ = ["Decision", "decide_change", "decide_interval", "decide_mean", "decide_plain", "decide_share"]


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
    if limit > 1.0:
        return Decision(False, "no share is larger than 1")
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


def decide_mean(value: float, limit: float, interval: tuple[float, float] | None) -> Decision:
    """A mean over images that must be at least `limit`, with its 95 % interval where chance has a part in it.

    A limit on a change that is above zero asks for an improvement: that is compared as it is.
    """
    if value >= limit or interval is None or interval[1] < limit:
        return Decision(value >= limit, interval=interval)
    note = f"misses the limit, but the 95 % interval {interval[0]:.4g} to {interval[1]:.4g} holds it"
    return Decision(True, note, interval=interval)


def decide_interval(
    holds: Callable[[float], bool],
    value: float,
    interval: tuple[float, float] | None,
    rounds: int = 0,
    waited: float = 0.0,
) -> Decision:
    """A time: `holds` says whether one is within the limit. Without an interval it is `value` alone.

    `rounds` is how often it was measured, 0 for what is measured once. `waited` is the share of the time, below 1, that
    the process waited for a core which others had.
    """
    low, high = (value, value) if interval is None else interval
    share = 1.0 - waited
    possible = (low * share, high / share)
    if not any(map(holds, possible)):
        return Decision(False, interval=interval)
    if all(map(holds, (possible[0] * share, possible[1] / share))):
        return Decision(True, interval=interval)
    after = f" after {rounds} rounds" if rounds else ""
    note = f"undecided{after}: the 95 % interval {low:.4g} to {high:.4g} holds the limit"
    if holds(low) == holds(high):
        note = (
            f"undecided{after}: other programs kept this one waiting for {waited:.0%} of the time, "
            f"so that it may be {possible[0]:.4g} to {possible[1]:.4g}; measure on a quiet machine"
        )
    return Decision(True, note, undecided=True, interval=interval)


def _too_few(p_value: float, n: int, enough: int | None) -> str:
    told = "" if enough is None else f"; about {enough} would decide"
    return f"misses the limit, but {n} images do not tell that from chance (p = {p_value:.2g}){told}"
