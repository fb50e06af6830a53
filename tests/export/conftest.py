"""A small network trained in code, so that its logits mean something, and what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, Exported, ExportOptions, Source, export
from edgetl_runtime.manifest import Label, Normalize, Preprocess

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


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Trained for a few seconds; better than 85 % and worse than perfect, so that agreement can be lost."""
    from edgetl_runtime.preprocess import preprocess

    torch.manual_seed(0)
    network = Bottlenecks(len(LABELS))
    images, kinds = pictures(512, 0)
    mean, std = torch.tensor(NORMALIZE.mean), torch.tensor(NORMALIZE.std)

    def normal(tensors: npt.NDArray[np.uint8]) -> torch.Tensor:
        return ((torch.tensor(tensors) / 255.0 - mean) / std).permute(0, 3, 1, 2)

    inputs = normal(np.stack([preprocess(image, SPEC) for image in images]))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(8):
        for chunk in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(network(inputs[chunk]), torch.tensor(kinds)[chunk])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    test_images, test_kinds = pictures(200, 1)
    tensors = np.stack([preprocess(image, SPEC) for image in test_images])
    source = Source("shapes", network, LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
    top1 = float((source.reference()(tensors).argmax(1) == test_kinds).mean())
    assert 0.75 < top1 < 1.0, f"the test network was not trained as it should be: {top1}"
    return Trained(source, list(images[:64]), tensors, test_kinds)


@pytest.fixture(scope="session")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """All nine variants of the trained network."""
    folder = tmp_path_factory.mktemp("bundle") / "shapes.edgetl"
    folder.mkdir()
    return folder, export(trained.source, trained.samples, trained.calibration[:4], folder, ExportOptions())
