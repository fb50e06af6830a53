"""Small networks trained in code, in seconds, and the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl_runtime.manifest import Normalize

__all__ = ["train"]


def train(
    network: nn.Module,
    tensors: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.int64],
    normalize: Normalize,
    *,
    epochs: int,
    batch_size: int,
) -> None:
    """Train `network` on uint8 (n, H, W, 3) `tensors` and (n,) indices of labels; it is in eval mode afterwards.

    In float64: CPUs and numbers of threads sum in different orders, and what float32 rounds differently becomes another
    network within an epoch. So the float32 network at the end is the same but for its last bits.
    """
    mean, std = torch.tensor(normalize.mean), torch.tensor(normalize.std)
    inputs = ((torch.tensor(tensors) / 255.0 - mean) / std).permute(0, 3, 1, 2).double()
    labels = torch.tensor(kinds)
    network.double()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(epochs):
        for chunk in torch.randperm(len(inputs)).split(batch_size):
            loss = nn.functional.cross_entropy(network(inputs[chunk]), labels[chunk])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.float().eval()
