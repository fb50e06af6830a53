"""Labels that occur unequally often: weights for the loss, or an order that shows every label alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["balanced_order", "class_weights"]


def class_weights(labels: Tensor, n: int) -> Tensor:
    """float32 (n,), inversely proportional to how often each of `n` labels occurs; 1 on average over the images.

    `labels` is int64 (images,). A label without an image weighs 0.
    """
    counts = torch.bincount(labels, minlength=n)
    return torch.where(counts > 0, len(labels) / (n * counts.clamp(min=1)).float(), 0.0)


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
