"""How near a variant comes to the original, layer by layer, and where it first goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgetl.verify.report import LayerError

__all__ = ["AS_GOOD_AS_EXACT_DB", "fall_db", "find_parting", "find_suspects"]

AS_GOOD_AS_EXACT_DB = 40.0
"""What is nearer to the original than this counts as exact: int8 layers reach 30 to 40 dB, float16 ones 50 to 70."""

_LEAST_FALL_DB = 6.0
"""Half the amplitude; rounding to int8 alone costs a layer less."""

_MOST_SUSPECTS = 3

_GONE_DB = 10.0
"""Worse than any layer of a sound int8 variant: noise of a third of the amplitude."""


def fall_db(into: Sequence[float], out: float) -> float:
    """How much a layer loses, in dB: the SQNR of the worst of its inputs minus that of its output, at least 0.

    No inputs stand for the image itself, which is exact. Both are clipped to 0 (nothing is left of the signal) and
    `AS_GOOD_AS_EXACT_DB`.
    """
    return max(0.0, _clipped(min(into, default=AS_GOOD_AS_EXACT_DB)) - _clipped(out))


def find_suspects(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """The first layers that go wrong, at most three of `layers`, which are in running order; none in a sound variant.

    A layer is suspected when it loses at least half as much as the one that loses most, and no less than 6 dB.
    """
    least = max(_LEAST_FALL_DB, max((layer.drop_db for layer in layers), default=0.0) / 2)
    return tuple(layer for layer in layers if layer.drop_db >= least)[:_MOST_SUSPECTS]


def find_parting(layers: Sequence[LayerError], siblings: Sequence[Sequence[LayerError]] = ()) -> LayerError | None:
    """The first layer where a variant parts from the original by more than its `siblings` do; None when none does.

    `siblings` are the layers of other variants of the same precision: what a layer loses in one of them too is what
    that precision costs, and no fault of the file. Without any, the first layer that loses what is left of the signal
    goes before one that loses more decibels of a better one.
    """
    if not siblings:
        gone = [layer for layer in layers if layer.drop_db >= _LEAST_FALL_DB and layer.sqnr_db < _GONE_DB]
        if gone:
            return gone[0]
    usual: dict[str, float] = {}
    for other in siblings:
        for layer in other:
            usual[layer.node] = min(layer.drop_db, usual.get(layer.node, layer.drop_db))
    beyond = [replace(layer, drop_db=max(0.0, layer.drop_db - usual.get(layer.node, 0.0))) for layer in layers]
    suspects = find_suspects(beyond)
    return None if not suspects else next(layer for layer in layers if layer.node == suspects[0].node)


def _clipped(sqnr_db: float) -> float:
    return min(max(sqnr_db, 0.0), AS_GOOD_AS_EXACT_DB)
