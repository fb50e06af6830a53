"""How near a variant comes to the original, layer by layer, and where it first goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["AS_GOOD_AS_EXACT_DB", "LayerFidelity", "fall_db", "find_parting", "find_suspects"]

AS_GOOD_AS_EXACT_DB = 40.0
"""What is nearer to the original than this counts as exact: int8 layers reach 30 to 40 dB, float16 ones 50 to 70."""

_LEAST_FALL_DB = 6.0
"""Half the amplitude; rounding to int8 alone costs a layer less."""

_MOST_SUSPECTS = 3

_GONE_DB = 10.0
"""Worse than any layer of a sound int8 variant: noise of a third of the amplitude."""


@dataclass(frozen=True)
class LayerFidelity:
    """One layer of a variant beside the same layer of the original.

    ``module`` is the path of the original module, for a sum or product between modules that of the last one before
    it; ``node`` is the node of the captured graph and ``tensor`` the variant's own name for the values. An activation
    that engines fuse into a convolution is part of it. ``sqnr_db`` is the mean over images of the SQNR of the layer's
    output, ``drop_db`` how far that is below what goes into the layer (`fall_db`).

    Over all images: ``range`` is the least and greatest finite value of the variant, ``original_range`` of the
    original; ``clipped`` the share of values that stop at an end of the variant's range where the original's go on;
    ``non_finite`` the share of the variant's that are NaN or infinite; ``dead_channels`` are those where it is
    constant and the original is not. ``weights`` says how the file stores them: ``int8 per channel``,
    ``int8 per tensor``, ``float32``, with ``4 bits`` where that is all they use; None for a layer without any.
    """

    module: str
    node: str
    tensor: str
    sqnr_db: float
    drop_db: float
    range: tuple[float, float] = (0.0, 0.0)
    original_range: tuple[float, float] = (0.0, 0.0)
    clipped: float = 0.0
    non_finite: float = 0.0
    dead_channels: tuple[int, ...] = ()
    weights: str | None = None


def fall_db(into: Sequence[float], out: float) -> float:
    """How much a layer loses, in dB: the SQNR of the worst of its inputs minus that of its output, at least 0.

    No inputs stand for the image itself, which is exact. Both are clipped to 0 (nothing is left of the signal) and
    `AS_GOOD_AS_EXACT_DB`.
    """
    return max(0.0, _clipped(min(into, default=AS_GOOD_AS_EXACT_DB)) - _clipped(out))


def find_suspects(layers: Sequence[LayerFidelity]) -> tuple[LayerFidelity, ...]:
    """The first layers that go wrong, at most three of `layers`, which are in running order; none in a sound variant.

    A layer is suspected when it loses at least half as much as the one that loses most, and no less than 6 dB.
    """
    least = max(_LEAST_FALL_DB, max((layer.drop_db for layer in layers), default=0.0) / 2)
    return tuple(layer for layer in layers if layer.drop_db >= least)[:_MOST_SUSPECTS]


def find_parting(
    layers: Sequence[LayerFidelity], siblings: Sequence[Sequence[LayerFidelity]] = ()
) -> LayerFidelity | None:
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
