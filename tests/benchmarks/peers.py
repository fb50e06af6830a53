"""Today's post-training quantisers, each called as its own documentation says, on edgetl's fp32 files.

Every peer runs in a process of its own (``python peers.py NAME MODEL CALIBRATION.npy OUT``): nothing that another one
imported, cached or left in memory speeds it up or slows it down, and one that fails takes no other with it. The input
normalisation stays in float for all of them: it belongs to edgetl's input contract, not to the model, and two of them
lose 1 dB by quantising it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import ExportError, MissingDependency

__all__ = ["PEERS", "Peer", "check_peers_installed", "main", "quantize_in_a_process"]

Images = npt.NDArray[np.uint8]
"""(n, H, W, 3), as `edgetl_runtime.preprocess` gives them."""

_SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite", "openvino": ".xml"}
_SECONDS = 1800
_NORMALIZATION = ("CAST", "MUL", "ADD")
_IMAGES_IN_MEMORY = 25


@dataclass(frozen=True)
class Peer:
    """A tool with one set of options: it turns the fp32 file of ``target`` into an int8 one."""

    title: str
    target: str
    library: str
    quantize: Callable[[Path, Images, Path], None]


class _Reader:
    """The images as `onnxruntime.quantization` reads them: one at a time, or a range of them."""

    def __init__(self, images: Images, name: str) -> None:
        self._images, self._name = images, name
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._left, None)
        return None if image is None else {self._name: image[None]}


def _onnxruntime(model: Path, images: Images, out: Path, *, percentile: bool = False) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    graph = onnx.load(model).graph
    reached, normalization = {graph.input[0].name}, []
    for node in graph.node:
        if node.op_type.upper() in _NORMALIZATION and reached.intersection(node.input):
            reached.update(node.output)
            normalization.append(node.name)
    options: dict[str, Any] = {}
    if percentile:
        # The calibrator keeps every activation of a range of images in memory, and wants equal ranges.
        stride = next(n for n in range(_IMAGES_IN_MEMORY, 0, -1) if len(images) % n == 0)
        options = {
            "per_channel": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "calibrate_method": CalibrationMethod.Percentile,
            "extra_options": {"CalibStridedMinMax": stride},
        }
    reader = _Reader(images, graph.input[0].name)
    quantize_static(model, out, reader, nodes_to_exclude=normalization, **options)


def _nncf(model: Path, images: Images, out: Path, *, preset: str = "PERFORMANCE") -> None:
    import openvino

    nncf = import_module("nncf")  # it ships no types

    quantized = nncf.quantize(
        openvino.Core().read_model(model),
        nncf.Dataset(list(images[:, None])),
        preset=getattr(nncf.QuantizationPreset, preset),
    )
    openvino.save_model(quantized, out)


def _ai_edge_quantizer(model: Path, images: Images, out: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    interpreter = Interpreter(
        str(model), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    kept, operations = algorithm_manager.AlgorithmName.NO_QUANTIZE, qtyping.TFLOperationName
    static = quantizer.Quantizer(str(model), recipe.static_wi8_ai8())
    for border in (operations.INPUT, operations.OUTPUT):
        static.update_quantization_recipe(".*", border, algorithm_key=kept)
    reached = {interpreter.get_input_details()[0]["name"]}
    for operator in interpreter._get_ops_details():
        inputs, outputs = ([names.get(i, "") for i in operator[end]] for end in ("inputs", "outputs"))
        if operator["op_name"] in _NORMALIZATION and reached.intersection(inputs):
            reached.update(outputs)
            scope = f"^{re.escape(';'.join(outputs) + ';')}$"
            static.update_quantization_recipe(scope, operations.ALL_SUPPORTED, algorithm_key=kept)
    signature, ends = next(iter(interpreter.get_signature_list().items()))
    statistics = static.calibrate({signature: [{ends["inputs"][0]: image[None]} for image in images]})
    static.quantize(statistics).export_model(str(out))


PEERS: dict[str, Peer] = {
    "ort": Peer("onnxruntime quantize_static, defaults", "onnx", "onnxruntime", _onnxruntime),
    "ort-percentile": Peer(
        "onnxruntime quantize_static, per channel, U8S8, percentile",
        "onnx",
        "onnxruntime",
        partial(_onnxruntime, percentile=True),
    ),
    "nncf": Peer("NNCF, default", "openvino", "nncf", _nncf),
    "nncf-mixed": Peer("NNCF, mixed preset", "openvino", "nncf", partial(_nncf, preset="MIXED")),
    "ai-edge": Peer("ai-edge-quantizer static_wi8_ai8", "tflite", "ai_edge_quantizer", _ai_edge_quantizer),
}


def check_peers_installed(names: tuple[str, ...]) -> None:
    """`MissingDependency` for the first library of these peers that is not installed; imports none of them."""
    for name in names:
        if find_spec(PEERS[name].library) is None:
            raise MissingDependency(PEERS[name].library, needed_for=f"the peer {name}", extra="peers")


def quantize_in_a_process(name: str, model: Path, calibration: Path, out: Path) -> tuple[Path, float]:
    """The int8 file that peer `name` makes of the fp32 file `model` in the folder `out`, and the seconds it took.

    `calibration` is a .npy file of uint8 (n, H, W, 3). The seconds are those of reading, calibrating, quantising and
    writing, not of starting Python and importing the library. Raises `ExportError` with the last line of what the
    peer said when it fails.
    """
    out.mkdir(parents=True)
    command = [sys.executable, __file__, name, str(model), str(calibration), str(out)]
    with (out / "log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ExportError(f"{name} took longer than {_SECONDS} s") from None
    if done.returncode != 0:
        said = (out / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        raise ExportError(f"{name} ended with code {done.returncode}: {said[-1]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return out / result["file"], float(result["seconds"])


def main(arguments: list[str]) -> None:
    """Run one peer and print ``{"file": ..., "seconds": ...}``."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("name", choices=list(PEERS))
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    peer = PEERS[given.name]
    _import_all(peer)
    images = np.load(given.calibration)
    file = given.out / f"model.int8{_SUFFIXES[peer.target]}"
    start = time.monotonic()
    peer.quantize(given.model, images, file)
    print(json.dumps({"file": file.name, "seconds": time.monotonic() - start}))


def _import_all(peer: Peer) -> None:
    """What `peer` imports, before the clock starts."""
    modules = {
        "onnx": ("onnx", "onnxruntime.quantization"),
        "openvino": ("openvino", "nncf"),
        "tflite": ("ai_edge_litert.interpreter", "ai_edge_quantizer.quantizer"),
    }
    for module in modules[peer.target]:
        import_module(module)


if __name__ == "__main__":
    main(sys.argv[1:])
