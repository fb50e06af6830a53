"""The head by itself: what comes before it never changes, so its input is computed once for every image.

For a linear head an epoch is a step of L-BFGS over all training images: cross-entropy plus ``strength |W|^2 / 2``,
convex, so that neither learning rate nor order nor seed matter. A head with a hidden layer is trained the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgetl.tasks.task import Objective, Targets
from edgetl.training.features import Features

__all__ = ["head_epochs"]

_HIDDEN = 0.02
"""Times the decay of a linear head: matrices that multiply each other are drawn with a size that matters."""


def head_epochs(
    head: nn.Module, train: Features, objective: Objective, *, output: str, strength: float, epochs: int
) -> Iterator[float]:
    """Train `head`, which gives `output`, in place; gives the training loss of each epoch."""
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    if not isinstance(head, nn.Linear):
        strength *= _HIDDEN
    else:
        # Relative to the features, so that it means the same for any backbone; and where the search starts is free.
        strength *= train.values.square().mean().item()
        nn.init.zeros_(head.weight)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
    solver = torch.optim.LBFGS(
        head.parameters(), max_iter=1, max_eval=25, history_size=10, line_search_fn="strong_wolfe"
    )
    targets = Targets(train.targets)

    def loss_and_gradients() -> Tensor:
        solver.zero_grad()
        loss = objective({output: head(train.values)}, targets).mean()
        for matrix in matrices:
            loss = loss + 0.5 * strength * matrix.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(epochs):
        loss: Tensor = solver.step(loss_and_gradients)  # type: ignore[no-untyped-call]
        yield loss.item()
