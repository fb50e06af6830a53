"""Small networks trained in code, so that their logits mean something, and what they become as int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgetl_export import Captured, Exported, ExportOptions, capture, export
from edgetl_export.artifact import Artifact
from edgetl_export.quantize.calibrate import Calibration, calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.saturation import without_saturation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.targets import TARGETS, Target, open_target
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.machine import cpu_features
from tests.zoo import LABELS, Attentive, Bottlenecks, Channelwise, Hard, Inverted, Pooling, Trained, fitted


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


def static_for_this_cpu(captured: Captured, calibration: Calibration) -> Quantized:
    """`quantize_static`, and where this CPU adds in 16 bits weights whose sums fit: what engines compute exactly."""
    quantized = quantize_static(captured, calibration)
    return without_saturation(quantized) if cpu_features().adds_in_16_bits else quantized


def _int8(trained: Trained) -> Int8:
    pixels = on_pixels(capture(trained.source))
    calibration = calibrate(pixels, trained.samples)
    quantized = static_for_this_cpu(pixels, calibration)
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
