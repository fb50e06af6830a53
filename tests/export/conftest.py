"""Small networks trained in code, so that their logits mean something, and what they become as int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, Captured, Exported, ExportOptions, Source, capture, export
from edgetl_export.artifact import Artifact
from edgetl_export.quantize.calibrate import Calibration, calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.static import quantize_static
from edgetl_export.targets import TARGETS, Target, open_target
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from tests.tiny_training import train

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


@dataclass(frozen=True)
class Int8:
    """A trained network quantised once, and what each target writes of it."""

    trained: Trained
    pixels: Captured
    calibration: Calibration
    quantized: Quantized
    targets: dict[str, Target]
    files: dict[str, Artifact]

    @property
    def reference(self) -> npt.NDArray[np.float32]:
        """The original's logits (200, 4) for the images to judge on."""
        return self.trained.source.reference()(self.trained.tensors)

    def logits(self, target: str, artifact: Artifact | None = None) -> npt.NDArray[np.float32]:
        """The same from the file of a target, or from another one."""
        return logits_of_file(target, artifact or self.files[target], self.trained.tensors)


def logits_of_file(target: str, artifact: Artifact, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits (n, classes) of uint8 `tensors` (n, H, W, 3), one image at a time, by the engine itself."""
    if target == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(artifact.files[".onnx"], providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"image": tensor[None]})[0] for tensor in tensors])
    if target == "openvino":
        import openvino

        model = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
        with kept_signal_stack():
            compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([np.array(compiled([tensor[None]])[0]) for tensor in tensors])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=artifact.files[".tflite"])
    interpreter.allocate_tensors()
    image, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for tensor in tensors:
        interpreter.set_tensor(image, tensor[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output))
    return np.concatenate(rows)


def fitted(network: nn.Module) -> Trained:
    """`network` trained for a few seconds; better than 75 % and worse than perfect, so that agreement can be lost."""
    from edgetl_runtime.preprocess import preprocess

    images, kinds = pictures(512, 0)
    train(network, np.stack([preprocess(image, SPEC) for image in images]), kinds, NORMALIZE, epochs=8, batch_size=64)
    test_images, test_kinds = pictures(200, 1)
    tensors = np.stack([preprocess(image, SPEC) for image in test_images])
    source = Source("shapes", network, LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
    top1 = float((source.reference()(tensors).argmax(1) == test_kinds).mean())
    assert 0.75 < top1 < 1.0, f"the test network was not trained as it should be: {top1}"
    return Trained(source, list(images[:64]), tensors, test_kinds)


def _int8(trained: Trained) -> Int8:
    pixels = on_pixels(capture(trained.source))
    calibration = calibrate(pixels, trained.samples)
    quantized = quantize_static(pixels, calibration)
    targets = {name: open_target(name) for name in TARGETS}
    files = {name: target.quantize(quantized) for name, target in targets.items()}
    return Int8(trained, pixels, calibration, quantized, targets, files)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """The first-class backbones in small."""
    torch.manual_seed(5)
    return fitted(Bottlenecks(len(LABELS)))


@pytest.fixture(scope="session")
def int8(trained: Trained) -> Int8:
    """The network of `trained` as int8 in all three formats."""
    return _int8(trained)


@pytest.fixture(scope="session")
def inverted() -> Int8:
    """A small MobileNetV2 as int8 in all three formats."""
    torch.manual_seed(0)
    return _int8(fitted(Inverted(len(LABELS))))


@pytest.fixture(scope="session")
def pooling() -> Int8:
    """A small ResNet with a dead channel as int8 in all three formats."""
    torch.manual_seed(7)
    return _int8(fitted(Pooling(len(LABELS))))


@pytest.fixture(scope="session")
def hard() -> Int8:
    """A small MobileNetV3 as int8 in all three formats."""
    torch.manual_seed(0)
    return _int8(fitted(Hard(len(LABELS))))


@pytest.fixture(scope="session")
def attentive() -> Int8:
    """A small vision transformer as int8 in all three formats."""
    torch.manual_seed(0)
    return _int8(fitted(Attentive(len(LABELS))))


@pytest.fixture(scope="session")
def channelwise() -> Int8:
    """A small ConvNeXt as int8 in all three formats."""
    torch.manual_seed(0)
    return _int8(fitted(Channelwise(len(LABELS))))


@pytest.fixture(scope="session")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """All nine variants of the trained network."""
    folder = tmp_path_factory.mktemp("bundle") / "shapes.edgetl"
    folder.mkdir()
    return folder, export(trained.source, trained.samples, trained.calibration[:4], folder, ExportOptions())
