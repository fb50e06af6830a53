"""A backbone that is trained in seconds, for tests of the whole way from photos to predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

__all__ = ["TINY_SIZE", "tiny"]

TINY_SIZE = 32


class TinyNet(nn.Module):
    """Two convolutions, a depthwise one between them, and a linear head: a backbone that is trained in seconds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
            layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
            return [layer, nn.BatchNorm2d(o), nn.ReLU6()]

        self.features = nn.Sequential(*conv(3, 16, 3, 2), *conv(16, 16, 3, 1, 16), *conv(16, 32, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(32, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class TinyWeights(WeightsEnum):  # type: ignore[misc] # torchvision is untyped
    IMAGENET1K_V1 = Weights(
        url="",
        transforms=partial(ImageClassification, crop_size=TINY_SIZE, resize_size=36),
        meta={"num_params": 1, "_ops": 0.0, "_metrics": {"ImageNet-1K": {"acc@1": 0.0}}},
    )
    DEFAULT = IMAGENET1K_V1


def tinynet(*, weights: TinyWeights | None = None, num_classes: int = 1000, **_: Any) -> TinyNet:
    return TinyNet(num_classes)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone among torchvision's, for the length of a test."""
    monkeypatch.setattr(tinynet, "__module__", "torchvision.models.tinynet")
    monkeypatch.setitem(tinynet.__annotations__, "weights", TinyWeights | None)
    monkeypatch.setitem(BUILTIN_MODELS, "tinynet", tinynet)
    return "tinynet"
