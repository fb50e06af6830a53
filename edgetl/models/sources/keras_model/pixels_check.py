"""Labelled photos against a convention of pixels that was said, or read from a name: a wrong one loses beyond chance.

Photos cannot choose among conventions (several decide nearly alike), but they can refute one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl.models.sources.keras_model.pixels import CONVENTIONS, Convention
from edgetl.stats import mcnemar_worse
from edgetl_runtime.errors import UsageError

__all__ = ["check_convention"]

_CERTAIN = 0.001
"""What one of four other conventions wins by chance is made rarer than this, for all four together."""
_BATCH = 16


def check_convention(
    module: nn.Module, chosen: Convention, images: npt.NDArray[np.uint8], truth: npt.NDArray[np.int64]
) -> None:
    """Raise `UsageError` when another convention than `chosen` is right on more of `images`, beyond chance.

    McNemar's exact test, Bonferroni over the others.

    Args:
        module: the model's translation, float32 (N, C, H, W) as the user's model takes pixels to logits. It computes
            what Keras does, in a sixth of the time.
        chosen: how pixels are said to go in.
        images: uint8 (n, H, W, C).
        truth: the index of the label of each.

    Raises:
        UsageError: says the other convention, and on how many photos each is right.
    """
    others = [one for one in CONVENTIONS.values() if one.name != chosen.name]
    limit = _CERTAIN / len(others)
    own = _decided(module, chosen, images) == truth
    wrong = np.flatnonzero(~own)
    if mcnemar_worse(len(wrong), 0) >= limit:
        return  # no other can win enough, even one that is right on all of them
    won_by = {one.name: int((_decided(module, one, images[wrong]) == truth[wrong]).sum()) for one in others}
    if mcnemar_worse(max(won_by.values()), 0) >= limit:
        return  # nor could one that loses none
    right = {one.name: _decided(module, one, images) == truth for one in others}
    best = max(others, key=lambda one: int(right[one.name].sum()))
    won = won_by[best.name]
    lost = int((own & ~right[best.name]).sum())
    if won > lost and mcnemar_worse(won, lost) < limit:
        raise UsageError(
            f"pixels as {chosen.name} ({chosen.about}) are not what the model was trained on: {int(own.sum())} of "
            f"{len(truth)} labelled photos are right, and as {best.name} ({best.about}) {int(right[best.name].sum())}",
            fix=f"--pixels {best.name}, if that is what your preprocess_input did; or labels in another order",
        )


def _decided(module: nn.Module, convention: Convention, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    decided: list[npt.NDArray[np.int64]] = []
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(convention.apply(images[start : start + _BATCH]))
            decided.append(module(pixels.permute(0, 3, 1, 2)).argmax(1).numpy())
    return np.concatenate(decided)
