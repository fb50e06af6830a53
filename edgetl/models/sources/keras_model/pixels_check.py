"""Labelled photos against a convention of pixels that was said, or read from a name: a wrong one loses beyond chance.

Photos cannot choose among conventions (several decide nearly alike), but they can refute one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgetl.models.sources.keras_model.original import KerasOriginal
from edgetl.models.sources.keras_model.pixels import CONVENTIONS, Convention
from edgetl.stats import mcnemar_worse
from edgetl_runtime.errors import UsageError

__all__ = ["check_convention"]

_CERTAIN = 0.001
"""What one of four other conventions wins by chance is made rarer than this, for all four together."""


def check_convention(
    original: KerasOriginal, images: npt.NDArray[np.uint8], truth: npt.NDArray[np.int64]
) -> Mapping[str, float]:
    """The share of `images` (n, H, W, C) that the model decides right (`truth`: indices of labels) by convention.

    Raises `UsageError` when another convention than the model's is right on more of them, beyond chance (McNemar's
    exact test, Bonferroni over the others).
    """
    chosen = original.convention
    others = [one for one in CONVENTIONS.values() if one.name != chosen.name]
    right = {one.name: _decided(original, one, images) == truth for one in (chosen, *others)}
    best = max(others, key=lambda one: int(right[one.name].sum()))
    won = int((right[best.name] & ~right[chosen.name]).sum())
    lost = int((right[chosen.name] & ~right[best.name]).sum())
    if won > lost and mcnemar_worse(won, lost) < _CERTAIN / len(others):
        own, other = (int(right[one.name].sum()) for one in (chosen, best))
        raise UsageError(
            f"pixels as {chosen.name} ({chosen.about}) are not what the model was trained on: {own} of {len(truth)} "
            f"labelled photos are right, and as {best.name} ({best.about}) {other}",
            fix=f"--pixels {best.name}, if that is what your preprocess_input did; or labels in another order",
        )
    return {name: float(decisions.mean()) for name, decisions in right.items()}


def _decided(original: KerasOriginal, convention: Convention, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    outputs = np.concatenate([original.run(convention.apply(images[i : i + 16])) for i in range(0, len(images), 16)])
    decided: npt.NDArray[np.int64] = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(np.int64)
    return decided
