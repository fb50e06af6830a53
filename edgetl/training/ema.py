"""Exponential moving average of weights: what is judged and kept instead of the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """Averages of all parameters and floating point buffers of `model`.

    The decay starts lower, ``min(decay, (1 + t) / (10 + t))`` at step t (as in TensorFlow's
    ExponentialMovingAverage), or the first weights would weigh for hundreds of steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in _floats(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights of a step in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in _floats(model):
            self.values[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def restore(self, steps: int, values: Mapping[str, Tensor]) -> None:
        """Go on from the averages of another time."""
        self.steps = steps
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Inside, `model` has the averages; afterwards its own weights again."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, value in _floats(model):
            own = value.clone()
            value.copy_(self.values[name])
            self.values[name].copy_(own)


def _floats(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            yield name, value
