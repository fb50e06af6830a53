"""The rank of variants that were timed: the fastest first, and among equally fast ones what has more merits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["NOISE", "as_fast", "best_first"]

NOISE = 0.03
"""Times that differ by less than this share count as equal."""

_Item = TypeVar("_Item")


def as_fast(one_ms: float, other_ms: float) -> bool:
    """Whether the two differ by noise at most."""
    return max(one_ms, other_ms) < (1 + NOISE) * min(one_ms, other_ms)


def best_first(
    items: Sequence[_Item],
    *,
    ms: Callable[[_Item], float],
    merits: Callable[[_Item], tuple[float, ...]],
    alike: Callable[[_Item, _Item], bool],
) -> list[_Item]:
    """Those of `items` that are as fast as the fastest: `alike` says so. The one with the least `merits` is first."""
    fastest = min(items, key=ms)
    return sorted((item for item in items if alike(item, fastest)), key=merits)
