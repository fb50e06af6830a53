"""Networks of a user's own, as functions of a file that tests name: ``own_networks.py:NAME``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Own", "fixed", "headless", "of_any_number", "two_outputs"]


class Own(nn.Module):
    """Functional activations, an ``if`` on shapes that tracing cannot follow, and a head called by no usual name."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 12)
        self.decide = nn.Linear(12, labels)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(image)))
        if x.shape[-1] > 8:
            x = F.max_pool2d(x, 2)
        x = F.relu6(self.second_norm(self.body(x)))
        logits: Tensor = self.decide(F.relu(self.hidden(x.mean((2, 3)))))
        return logits


def of_any_number(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network = Own(num_classes)
    for norm in (network.norm, network.second_norm):
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network


def fixed() -> nn.Module:
    return of_any_number(3)


def headless() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU())


def two_outputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return Two()


def probable() -> nn.Module:
    return nn.Sequential(fixed(), nn.Softmax(1))


def one_row() -> nn.Module:
    return nn.Sequential(fixed(), nn.Flatten(0), nn.Unflatten(0, (1, -1)))


class DecidesByValues(Own):
    """No graph can say this for every photo."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits if x.sum() > 0 else -logits


def by_values(num_classes: int) -> nn.Module:
    return DecidesByValues(num_classes)


def failing() -> nn.Module:
    raise RuntimeError("weights are elsewhere")


def leaving() -> nn.Module:
    raise SystemExit(3)


def of_labels(num_classes: int) -> nn.Module:
    return Own(num_classes)


def a_program() -> nn.Module:
    program: nn.Module = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return program


def with_numbers() -> nn.Module:
    class Numbered(Own):
        def get_extra_state(self) -> int:
            return 1

    return Numbered(3)


text = "not a function"
