"""The int8 MobileNetV2 of somebody without edgetl: same weights and photos, each engine's own quantiser, float input.

    python tests/benchmarks/runtime_models.py FOLDER [--data DIR]

The normalisation is not in these models, as it is not in those of any tutorial: the application normalises. FOLDER
keeps them; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from workloads import WORKLOADS, data_folder, preprocessed

from edgetl_runtime.errors import EdgetlError

__all__ = ["MODELS", "HandMade", "built", "main"]

Floats = npt.NDArray[np.float32]
_CALIBRATION = 100
_OPSET = 18


@dataclass(frozen=True)
class HandMade:
    """Models of one folder by engine, and the labels in the order of the logits as ``[{"id": ..., "name": ...}]``."""

    models: dict[str, Path]
    labels: Path


def built(folder: Path, data: Path) -> HandMade:
    """The models in `folder`; those that are missing are made from the weights and photos in `data`, in minutes."""
    found = HandMade({engine: folder / name for engine, (name, _) in MODELS.items()}, folder / "labels.json")
    missing = [engine for engine, path in found.models.items() if not path.is_file()]
    if missing:
        _build(found, missing, data)
    return found


def _build(wanted: HandMade, missing: list[str], data: Path) -> None:
    workload = WORKLOADS["mobilenet_v2"]
    checkpoint = workload.checkpoint(data)
    wanted.labels.parent.mkdir(parents=True, exist_ok=True)
    wanted.labels.write_text(json.dumps([asdict(label) for label in checkpoint.labels]), encoding="utf-8")
    pixels = preprocessed(workload.calibration_photos(data, _CALIBRATION), checkpoint)
    mean, std = (np.array(numbers, np.float32) for numbers in (checkpoint.normalize.mean, checkpoint.normalize.std))
    images = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    for engine in missing:
        MODELS[engine][1](checkpoint.build(), np.ascontiguousarray(images), wanted.models[engine])


def _onnx_fp32(network: Any, folder: Path) -> Path:
    """NCHW float32 ONNX with a batch of one."""
    import torch

    path = folder / "float.fp32.onnx"
    torch.onnx.export(
        network, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=True, external_data=False, opset_version=_OPSET
    )
    return path


def _onnxruntime(network: Any, images: Floats, out: Path) -> None:
    """Static, per channel, U8S8: what its documentation recommends for CPUs with VNNI."""
    quantization = import_module("onnxruntime.quantization")
    shape_inference = import_module("onnxruntime.quantization.shape_inference")
    plain = _onnx_fp32(network, out.parent)
    prepared = out.parent / "float.prepared.onnx"
    shape_inference.quant_pre_process(str(plain), str(prepared))
    name = import_module("onnx").load(prepared).graph.input[0].name
    quantization.quantize_static(
        str(prepared),
        str(out),
        _reader(name, images),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _reader(name: str, images: Floats) -> Any:
    """The images as `onnxruntime.quantization` reads them."""
    base: type[Any] = import_module("onnxruntime.quantization").CalibrationDataReader

    class Reader(base):
        def __init__(self) -> None:
            self._left: Iterator[Floats] = iter(images)

        def get_next(self) -> dict[str, Floats] | None:
            image = next(self._left, None)
            return None if image is None else {name: image[None]}

    return Reader()


def _openvino(network: Any, images: Floats, out: Path) -> None:
    """NNCF with its defaults."""
    openvino, nncf = import_module("openvino"), import_module("nncf")
    model = openvino.convert_model(_onnx_fp32(network, out.parent))
    openvino.save_model(nncf.quantize(model, nncf.Dataset(list(images[:, None]))), out)


def _litert(network: Any, images: Floats, out: Path) -> None:
    """ai-edge-quantizer, static int8 with float borders; channels last, so that the engine transposes nothing."""
    import torch

    litert_torch = import_module("litert_torch")
    quantizer, recipe, qtyping, manager = (
        import_module(f"ai_edge_quantizer.{name}") for name in ("quantizer", "recipe", "qtyping", "algorithm_manager")
    )

    class ChannelsLast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any) -> Any:
            return self.network(image.permute(0, 3, 1, 2))

    plain = out.parent / "float.fp32.tflite"
    litert_torch.convert(ChannelsLast().eval(), (torch.zeros(1, 224, 224, 3),)).export(str(plain))
    static = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        static.update_quantization_recipe(".*", border, algorithm_key=manager.AlgorithmName.NO_QUANTIZE)
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(plain))
    signature, ends = next(iter(interpreter.get_signature_list().items()))
    samples = [{ends["inputs"][0]: image[None].transpose(0, 2, 3, 1).copy()} for image in images]
    static.quantize(static.calibrate({signature: samples})).export_model(str(out))


MODELS: dict[str, tuple[str, Callable[[Any, Floats, Path], None]]] = {
    "onnxruntime": ("float.int8.onnx", _onnxruntime),
    "litert": ("float.int8.tflite", _litert),
    "openvino": ("float.int8.xml", _openvino),
}


def main(arguments: list[str]) -> int:
    """Make the models and name them; 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    given = parser.parse_args(arguments)
    try:
        made = built(given.folder, data_folder(given.data))
    except EdgetlError as error:
        print(f"runtime_models: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{engine}: {path} {path.stat().st_size:,} bytes" for engine, path in made.models.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
