from __future__ import annotations

import numpy as np
import pytest
import torch
from timm_networks import fit_head, main, with_signal
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.gamma = nn.Parameter(torch.full((8,), 1e-6))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.norm(self.convolution(x))).mean((2, 3)) * self.gamma)
        return logits


def test_random_networks_decide_by_what_they_see() -> None:
    torch.manual_seed(0)
    labels = np.arange(40) % 2
    images = torch.rand(40, 3, 12, 12) + torch.from_numpy(labels)[:, None, None, None]
    network = Small().eval()
    with_signal(network, images)
    assert not torch.equal(network.norm.running_mean, torch.zeros(8))
    assert torch.equal(network.gamma, torch.ones(8))
    fit_head(network, images, labels)
    with torch.no_grad():
        logits = network(images)
    assert (logits.argmax(1).numpy() == labels).all()
    assert float(logits.std()) > 1


def test_a_network_that_timm_does_not_know_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "levit_128t", "--data", "."]) == 2
