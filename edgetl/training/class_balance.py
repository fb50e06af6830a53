"""Labels that occur unequally often: an order that shows every label alike."""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["balanced_order"]


def balanced_order(labels: Tensor, seed: int, epoch: int) -> list[int]:
    """As many indices as there are images, every label that occurs alike (but for one image), shuffled.

    Images of a rare label come several times, of a frequent one other images in every epoch; none is counted a second
    time before all of its label are in. `labels` is int64 (images,). The same for the same arguments.
    """
    rng = np.random.default_rng((seed, epoch, 2))
    truth = labels.numpy()
    present = rng.permutation(np.unique(truth))  # which labels get one image more is drawn too
    order: list[int] = []
    for place, label in enumerate(present):
        own = np.flatnonzero(truth == label)
        wanted = len(truth) // len(present) + (place < len(truth) % len(present))
        rounds = [rng.permutation(own) for _ in range(-(-wanted // len(own)))]
        order += np.concatenate(rounds)[:wanted].tolist() if rounds else []
    return rng.permutation(order).tolist() if order else []
