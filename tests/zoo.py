"""Small networks that are trained in seconds, and pictures to train them on: what tests of all packages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from edgetl_export import CalibrationSamples, Source
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from edgetl_runtime.preprocess import preprocess

SIZE = 32
SPEC = Preprocess(resize=36, crop=(SIZE, SIZE))
NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LABELS = tuple(Label(name, name) for name in ("red", "green", "stripes", "checks"))


class Bottlenecks(nn.Module):
    """The building blocks of the first-class backbones in small: strided and depthwise convolutions with batch norm,
    ReLU6 and SiLU, a linear bottleneck with a residual, squeeze-excite, global pooling, a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]

        self.stem = nn.Sequential(*conv(3, 16, 3, 2), nn.ReLU6())
        self.expand = nn.Sequential(*conv(16, 32, 1), nn.SiLU(), *conv(32, 32, 3, groups=32), nn.ReLU6())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.SiLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(*conv(32, 16, 1))
        self.last = nn.Sequential(*conv(16, 32, 3, 2), nn.ReLU6())
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.expand(x)
        x = x + self.project(y * self.squeeze(y))
        logits: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.last(x), 1), 1))
        return logits


class Inverted(nn.Module):
    """MobileNetV2 in small: inverted residuals with ReLU6 and linear bottlenecks, two sums in a row, a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]

        def block(width: int, inner: int) -> nn.Sequential:
            depthwise = [*conv(inner, inner, 3, groups=inner), nn.ReLU6()]
            return nn.Sequential(*conv(width, inner, 1), nn.ReLU6(), *depthwise, *conv(inner, width, 1))

        self.stem = nn.Sequential(*conv(3, 16, 3, 2), nn.ReLU6(), *conv(16, 12, 1))
        self.first, self.second = block(12, 32), block(12, 32)
        self.last = nn.Sequential(*conv(12, 48, 1), nn.ReLU6())
        self.head = nn.Linear(48, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        logits: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.last(x), 1), 1))
        return logits


class Pooling(nn.Module):
    """ResNet in small: max-pooling, ReLU, a residual, a convolution that classifies.

    Channel `DEAD` of the second normalisation is switched off: nothing but its bias is left.
    """

    DEAD = 3

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.outer = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.normal = nn.BatchNorm2d(16)
        self.classify = nn.Conv2d(16, classes, 1)
        alive = torch.ones(16)
        alive[self.DEAD] = 0
        self.normal.weight.data = alive.clone()
        self.normal.bias.data[self.DEAD] = 4
        self.normal.weight.register_hook(lambda gradient: gradient * alive)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.normal(self.outer(self.inner(x))))
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.classify(x), 1), 1)


class Hard(nn.Module):
    """MobileNetV3 in small: hardswish behind everything, squeeze-excite with a hardsigmoid, two layers at the end."""

    def __init__(self, classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
            return [layer, nn.BatchNorm2d(o), nn.Hardswish()]

        self.features = nn.Sequential(*conv(3, 16, 3, 2), *conv(16, 16, 3, groups=16))
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Hardsigmoid()
        )
        self.last = nn.Sequential(*conv(16, 32, 1))
        self.head = nn.Sequential(nn.Linear(32, 16), nn.Hardswish(), nn.Linear(16, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = self.last(x * self.squeeze(x))
        logits: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Attentive(nn.Module):
    """A vision transformer in small: patches, one block of attention and GELU with layer norms, a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.position = nn.Parameter(torch.zeros(1, (SIZE // 8) ** 2, 16))
        self.before_attention, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.block = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.normal, self.head = nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y = self.before_attention(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.block(x)
        logits: torch.Tensor = self.head(self.normal(x).mean(1))
        return logits


class Channelwise(nn.Module):
    """ConvNeXt in small, without its slow depthwise kernels: norm and matrix products over channels, a scale behind."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.spatial = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, padding=1)
        self.block = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.layer_scale = nn.Parameter(torch.full((16, 1, 1), 0.5))
        self.normal, self.head = nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.block(self.spatial(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.layer_scale * y
        logits: torch.Tensor = self.head(self.normal(x.mean((2, 3))))
        return logits


def pictures(n: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(n, 36, 48, 3) uint8 noisy pictures of four kinds, and which kind each is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(LABELS), n)
    rows, columns = np.mgrid[0:36, 0:48]
    images = rng.normal(110, 55, (n, 36, 48, 3))
    waves = np.stack([rows * 0, rows * 0, rows // 4 % 2, (rows // 4 + columns // 4) % 2])[kinds]
    images += 22 * waves[..., None] * rng.uniform(0.4, 1.2, (n, 1, 1, 1))
    images[kinds == 0, ..., 0] += 7
    images[kinds == 1, ..., 1] += 7
    return np.clip(images, 0, 255).astype(np.uint8), kinds


@dataclass(frozen=True)
class Trained:
    """A trained network, images to calibrate on and images to judge on."""

    source: Source
    calibration: Sequence[npt.NDArray[np.uint8]]
    tensors: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.int64]

    @property
    def samples(self) -> CalibrationSamples:
        return CalibrationSamples(self.calibration, SPEC)


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


def fitted(network: nn.Module) -> Trained:
    """`network` trained for a few seconds; better than 75 % and worse than perfect, so that agreement can be lost."""
    images, kinds = pictures(512, 0)
    train(network, np.stack([preprocess(image, SPEC) for image in images]), kinds, NORMALIZE, epochs=8, batch_size=64)
    test_images, test_kinds = pictures(200, 1)
    tensors = np.stack([preprocess(image, SPEC) for image in test_images])
    source = Source("shapes", network, LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
    top1 = float((source.reference()(tensors).argmax(1) == test_kinds).mean())
    assert 0.75 < top1 < 1.0, f"the test network was not trained as it should be: {top1}"
    return Trained(source, list(images[:64]), tensors, test_kinds)


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


class StridedNet(nn.Module):
    """A classifier with a map at every stride from 2 to 32."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, stride: int, groups: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6()
            )

        self.features = nn.Sequential(
            conv(3, 16, 2), conv(16, 32, 2), conv(32, 48, 2), conv(48, 64, 2), nn.Sequential(conv(64, 64, 1, 64)),
            conv(64, 96, 2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(96, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class _Weights(WeightsEnum):  # type: ignore[misc] # torchvision is untyped
    IMAGENET1K_V1 = Weights(
        url="",
        transforms=partial(ImageClassification, crop_size=TINY_SIZE, resize_size=36),
        meta={"num_params": 1, "_ops": 0.0, "_metrics": {"ImageNet-1K": {"acc@1": 0.0}}},
    )
    DEFAULT = IMAGENET1K_V1


@contextmanager
def as_backbone(name: str, network: Callable[[int], nn.Module]) -> Iterator[str]:
    """`network`, which takes the number of labels, is one of torchvision's classifiers, for as long as this is open."""

    def build(*, weights: _Weights | None = None, num_classes: int = 1000, **_: Any) -> nn.Module:
        return network(num_classes)

    build.__module__ = f"torchvision.models.{name}"
    build.__annotations__["weights"] = _Weights | None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN_MODELS, name, build)
        yield name
