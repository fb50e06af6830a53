"""Keras models beside their twins of torchvision and beside TFLiteConverter; README.md says what is shown.

python tests/benchmarks/keras_networks.py --networks mobilenet_v2,efficientnet_b0 --tensorflow tf/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from judging import ROUNDS, interleaved_medians, logits_of
from torch import nn
from workloads import data_folder, preprocessed

from edgetl.cli.progress import say
from edgetl.data.dataset import Sample, load_labelled, load_photos, pick
from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.keras_model.loading import keras_on_torch
from edgetl.models.sources.keras_model.pixels import CONVENTIONS
from edgetl.models.sources.opening import SourceOptions
from edgetl.models.weight_files import read_state
from edgetl.open_to_export import open_to_export
from edgetl.pipeline import export_checkpoint
from edgetl.recipe import ExportSection, Recipe
from edgetl.verify.measure.parity import compare
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import EdgetlError, ExportError, UsageError, nearest
from edgetl_runtime.manifest import Label

__all__ = ["NETWORKS", "main", "transplanted"]

PHOTOS = "flowers"
FLOWERS = "weights/efficientnet_b0_flowers.safetensors"
_EPSILON, _KERAS_EPSILON = 1e-5, 1e-3
"""That batch norms of torchvision's EfficientNet-B0 and of Keras' add to the variance."""
_COLUMNS = ("file", "of the twin's time", "transposes", "SQNR dB", "agreement %", "top-1 %")


@dataclass(frozen=True)
class Network:
    """A Keras file, its pixels by `CONVENTIONS`, and the backbone of torchvision that is the same network."""

    twin: str
    twin_weights: str
    size: int
    pixels: str
    file: Callable[[Path, Path], Path]


def transplanted(data: Path, scratch: Path) -> Path:
    """Keras' EfficientNetB0 with the weights of torchvision's that know flowers, saved in `scratch`.

    Keras pads the other side in strided convolutions, so it decides a little otherwise: it is a network of its own.
    """
    keras = keras_on_torch()
    state = read_state(data / FLOWERS).state
    twin = build("efficientnet_b0", 5)
    twin.load_state_dict(state)
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(160, 160, 3), classes=5)
    (normalization,) = (layer for layer in model.layers if type(layer).__name__ == "Normalization")
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    normalization.adapt_mean.assign(mean)
    normalization.adapt_variance.assign(std**2)
    normalization.finalize_state()
    ours = [module for module in twin.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    kinds = ("Conv2D", "DepthwiseConv2D", "BatchNormalization", "Dense")
    theirs = [layer for layer in model.layers if type(layer).__name__ in kinds]
    for module, layer in zip(ours, theirs, strict=True):
        layer.set_weights([values.detach().numpy() for values in _as_keras(module)])
    path = scratch / "efficientnet_b0.keras"
    model.save(path)
    return path


def _as_keras(module: nn.Module) -> list[torch.Tensor]:
    """The weights of a layer in Keras' order and layout."""
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        gain = ((module.running_var + _KERAS_EPSILON) / (module.running_var + _EPSILON)).sqrt()
        return [module.weight * gain, module.bias, module.running_mean, module.running_var]
    assert isinstance(module, nn.Conv2d | nn.Linear)
    if isinstance(module, nn.Linear):
        kernel = module.weight.T
    else:  # a depthwise one is (channels, 1, h, w): Keras has the 1 last
        kernel = module.weight.permute((2, 3, 0, 1) if module.groups > 1 else (2, 3, 1, 0))
    return [kernel.contiguous(), *([] if module.bias is None else [module.bias])]


NETWORKS: dict[str, Network] = {
    "mobilenet_v2": Network(
        "mobilenet_v2",
        "weights/mobilenet_v2_imagenet1k.safetensors",
        224,
        "tf",
        lambda data, _: data / "weights/keras/mobilenet_v2_flowers.keras",
    ),
    "efficientnet_b0": Network("efficientnet_b0", FLOWERS, 160, "0..255", transplanted),
}


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--photos", type=int, default=250, help="to calibrate on")
    parser.add_argument("--judged", type=int, default=1500, help="photos to judge on that calibration did not see")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tensorflow", help="a Python that has TensorFlow: its converter's int8 file beside it")
    given = parser.parse_args(arguments)
    try:
        for name in given.networks.split(","):
            if name not in NETWORKS:
                raise UsageError(f"unknown network {name!r}", fix=nearest(name, list(NETWORKS)))
        for name in given.networks.split(","):
            with tempfile.TemporaryDirectory(prefix="edgetl-keras-") as scratch:
                print(_measured(name, given, Path(scratch)), flush=True)
    except EdgetlError as error:
        say(f"keras_networks: error: {error}")
        return 2
    return 0


def _measured(name: str, given: argparse.Namespace, scratch: Path) -> str:
    say(f"{name} ...")
    data, network = data_folder(given.data), NETWORKS[name]
    photos = pick(load_photos(data / PHOTOS / "train"), given.photos)
    file = network.file(data, scratch)
    keras_on_torch()  # importing it is not translating
    start = time.process_time()
    opened = open_to_export(file, data / PHOTOS / "train", SourceOptions(pixels=network.pixels))
    assert isinstance(opened, Foreign)
    lines = [f"{name}: opened, translated and checked in {time.process_time() - start:.1f} s of CPU", ""]
    options: ExportSection = Recipe().updated({"export": {"precisions": ["fp32", "int8"]}}).export
    exported = export_checkpoint(opened, photos, scratch / "keras", options)
    labels = tuple(Label(folder.name, folder.name) for folder in sorted((data / PHOTOS / "val").iterdir()))
    export_checkpoint(_twin(network, data, labels), photos, scratch / "twin", options)
    judged = _others(data, labels, photos, given.judged)
    images = preprocessed(judged, opened)
    truth = np.array([sample.label for sample in judged])
    run = exported.captured.source.reference()
    wanted = np.concatenate([run(image[None]) for image in images])
    keras, twin = open_bundle(scratch / "keras"), open_bundle(scratch / "twin")
    times = _times((keras, twin), images[:1], given.rounds)
    lines += [_line(_COLUMNS), _line(["---", *["---:"] * (len(_COLUMNS) - 1)])]
    lines.append(_line(["Keras", "-", "-", "-", "-", f"{100 * (wanted.argmax(1) == truth).mean():.1f}"]))
    for variant in keras.manifest.variants:
        with keras.session(variant.id, threads=1) as session:
            logits = logits_of(session, images)
        parity = compare(wanted, logits)
        lines.append(
            _line(
                [
                    variant.id,
                    f"{times[0, variant.id] / times[1, variant.id]:.2f}",
                    str(_transposes(scratch / "keras" / variant.files[0].path)),
                    f"{parity.sqnr_db:.1f}",
                    f"{100 * parity.top1_agreement:.1f}",
                    f"{100 * (logits.argmax(1) == truth).mean():.1f}",
                ]
            )
        )
    if given.tensorflow is not None:
        convention = CONVENTIONS[network.pixels]
        pixels = convention.apply(preprocessed(photos, opened))
        found = _of_converter(given.tensorflow, file, pixels, convention.apply(images), scratch)
        agreement, right = (100 * (found == other).mean() for other in (wanted.argmax(1), truth))
        lines.append(_line(["TFLiteConverter int8", "-", "-", "-", f"{agreement:.1f}", f"{right:.1f}"]))
    return "\n".join(lines)


def _others(data: Path, labels: tuple[Label, ...], calibration: Sequence[Sample], n: int) -> tuple[Sample, ...]:
    """The photos held out, and others of those to train on: few differ, and chance must not decide between tools."""
    used = {sample.source for sample in calibration}
    folders = [load_labelled(data / PHOTOS / split, labels)[0] for split in ("val", "train")]
    return (*folders[0], *pick([one for one in folders[1] if one.source not in used], max(0, n - len(folders[0]))))


def _twin(network: Network, data: Path, labels: tuple[Label, ...]) -> Checkpoint:
    """The same network of torchvision, for as many labels."""
    spec, normalize = preset(network.twin, network.size)
    module = build(network.twin, len(labels), image_size=network.size)
    state = read_state(data / network.twin_weights).state
    own = module.state_dict()
    module.load_state_dict({key: values[: len(own[key])] if values.ndim else values for key, values in state.items()})
    return Checkpoint.of(module, backbone=network.twin, labels=labels, preprocess=spec, normalize=normalize)


def _times(bundles: Sequence[Bundle], image: npt.NDArray[np.uint8], rounds: int) -> dict[tuple[int, str], float]:
    """Milliseconds by place of the bundle and variant."""
    calls = {}
    with ExitStack() as stack:
        for place, bundle in enumerate(bundles):
            for variant in bundle.manifest.variants:
                session = stack.enter_context(bundle.session(variant.id, threads=1))
                calls[place, variant.id] = partial(session.run, {session.inputs[0].name: image})
        return interleaved_medians(calls, rounds=rounds)


def _transposes(file: Path) -> int:
    """How many a file has."""
    names: list[str]
    if file.suffix == ".onnx":
        import onnx

        names = [node.op_type for node in onnx.load(file).graph.node]
    elif file.suffix == ".xml":
        import openvino

        names = [node.get_type_name() for node in openvino.Core().read_model(file).get_ops()]
    else:
        from ai_edge_litert import schema_py_generated as schema

        model: Any = schema.ModelT.InitFromPackedBuf(file.read_bytes())
        codes = [code.builtinCode for code in model.operatorCodes]
        transpose = schema.BuiltinOperator.TRANSPOSE
        names = ["Transpose" if codes[one.opcodeIndex] == transpose else "" for one in model.subgraphs[0].operators]
    return names.count("Transpose")


def _of_converter(
    python: str, model: Path, calibration: npt.NDArray[np.float32], images: npt.NDArray[np.float32], scratch: Path
) -> npt.NDArray[np.int64]:
    """The labels (n,) that TFLiteConverter's int8 file gives to `images`."""
    from ai_edge_litert.interpreter import Interpreter

    pixels, out = scratch / "pixels.npy", scratch / "converter.tflite"
    np.save(pixels, calibration)
    child = Path(__file__).with_name("keras_converter.py")
    command = [python, str(child), str(model), str(pixels), str(out)]
    own = {**os.environ, "KERAS_BACKEND": "tensorflow"}  # here it is torch
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ExportError(f"TFLiteConverter ended with code {done.returncode}: {said[-1]}")
    interpreter = Interpreter(str(out), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    labels = []
    for image in images:
        interpreter.set_tensor(taken["index"], image[None])
        interpreter.invoke()
        labels.append(int(interpreter.get_tensor(given["index"]).argmax()))
    return np.array(labels)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
