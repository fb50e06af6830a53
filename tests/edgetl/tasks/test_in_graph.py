"""Decoding inside the files: what it gives is what a device makes of the raw outputs, which stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl.models.heads.ssdlite import decoder as ssdlite_decoder
from edgetl.tasks import task_of
from edgetl_export import CalibrationSamples, Captured, ExportOptions, Source, capture, export
from edgetl_export.artifact import Artifact
from edgetl_export.int8 import Int8Options
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.static import quantize_static
from edgetl_export.source import Decoding
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime import Label, load, open_bundle, self_test
from edgetl_runtime.engines import open_session
from edgetl_runtime.engines.binding import Execution, ModelBytes, Signature
from edgetl_runtime.errors import UsageError
from edgetl_runtime.interpolation import centres, interpolated
from edgetl_runtime.manifest import Normalize, Preprocess
from edgetl_runtime.tasks.boxes import decoded
from edgetl_runtime.tasks.detection import anchors_of
from edgetl_runtime.tasks.segmentation import label_map

pytestmark = pytest.mark.slow

SIDE, LABELS, IMAGES = 64, 5, 3
PRECISIONS = ("fp32", "fp16", "int8", "w8")
Tensors = Mapping[str, npt.NDArray[np.float32]]


class Boxes(nn.Module):
    """Two maps, two anchors at each place, as an SSD head puts them together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU6())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 2, 2), nn.ReLU())
        self.boxes = nn.ModuleList(nn.Conv2d(16, 2 * 4, 1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(16, 2 * (LABELS + 1), 1) for _ in range(2))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = [self.first(image)]
        maps.append(self.second(maps[0]))

        def rows(layers: nn.ModuleList, each: int) -> torch.Tensor:
            parts = [layer(level) for layer, level in zip(layers, maps, strict=True)]
            return torch.cat([part.permute(0, 2, 3, 1).reshape(part.shape[0], -1, each) for part in parts], 1)

        return {"boxes": rows(self.boxes, 4), "logits": 4 * rows(self.classes, LABELS + 1)}


class Maps(nn.Module):
    """A map at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, LABELS, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image).permute(0, 2, 3, 1)
        return logits


def source_of(task: str) -> Source:
    torch.manual_seed(0)
    network = (Boxes() if task == "detection" else Maps()).eval()
    shapes = [[[0.2, 0.3], [0.3, 0.2]], [[0.5, 0.4], [0.4, 0.7]]]
    decoder = ssdlite_decoder({"strides": [8], "shapes": shapes}, (SIDE, SIDE)) if task == "detection" else None
    return Source(
        name="toy",
        module=network,
        labels=tuple(Label(f"l{index}", f"l{index}") for index in range(LABELS)),
        preprocess=Preprocess(0, (SIDE, SIDE), mode="stretch"),
        normalize=Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        checkpoint_sha256="",
        task=task,
        outputs=task_of(task).outputs,
        decoder=decoder,
    )


def with_decodings(source: Source) -> Source:
    known = task_of(source.task).decodings.values()
    found = tuple(Decoding(one.names, one.module(source.decoder, (SIDE, SIDE))) for one in known)
    return dataclasses.replace(source, decodings=found)


def photos(n: int) -> list[npt.NDArray[np.uint8]]:
    """Blocks of colours."""
    colours = np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), np.uint8)
    return [one.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1) for one in colours]


def files_of(source: Source) -> tuple[Captured, dict[str, Artifact]]:
    captured, samples = capture(source), CalibrationSamples(photos(8), source.preprocess)
    quantized = quantize_static(pixels := on_pixels(captured), calibrate(pixels, samples))
    files = {}
    for name in TARGETS:
        target = open_target(name)
        files[f"{name}.int8"] = target.quantize(quantized)
        for precision in ("fp32", "fp16", "w8") if source.decodings else ():
            files[f"{name}.{precision}"] = target.write(captured, precision)
    return captured, files


def outputs_of(captured: Captured, variant: str, artifact: Artifact) -> list[Tensors]:
    contents = list(artifact.files.values())
    model = ModelBytes(contents[0], variant, contents[1] if len(contents) > 1 else None)
    signature = Signature((captured.input,), captured.all_outputs)
    with open_session(TARGETS[variant.partition(".")[0]].engine, model, signature, Execution(1)) as session:
        return [
            {name: values[0].copy() for name, values in session.run({"image": image[None]}).items()}
            for image in photos(IMAGES)
        ]


@dataclass(frozen=True)
class Both:
    """What the files give, with the decodings inside and, of int8, without."""

    source: Source
    decoded: dict[str, list[Tensors]]
    raw: dict[str, list[Tensors]]


@pytest.fixture(scope="module", params=["detection", "segmentation"])
def both(request: pytest.FixtureRequest) -> Both:
    source = source_of(request.param)
    inside, raw = files_of(with_decodings(source)), files_of(source)
    found = [{id_: outputs_of(captured, id_, file) for id_, file in files.items()} for captured, files in (inside, raw)]
    return Both(source, *found)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", list(TARGETS))
def test_files_give_what_a_device_makes_of_their_raw_outputs(both: Both, target: str, precision: str) -> None:
    for given in both.decoded[f"{target}.{precision}"]:
        if both.source.task == "detection":
            decoder = both.source.decoder
            assert decoder is not None
            boxes = decoded(given["boxes"], anchors_of(decoder), decoder["variances"])
            shares = np.exp(given["logits"] - given["logits"].max(1, keepdims=True))
            np.testing.assert_allclose(given["decoded_boxes"], boxes, atol=1e-5)
            np.testing.assert_allclose(given["scores"], (shares / shares.sum(1, keepdims=True))[:, 1:], atol=1e-5)
        else:
            at = centres(SIDE, SIDE // 4)
            large = interpolated(given["logits"], at, at)
            np.testing.assert_allclose(given["upsampled_logits"], large, atol=1e-5 * np.abs(large).max())
            first, second = np.sort(large, axis=2)[:, :, :-3:-1].transpose(2, 0, 1)
            clear = first - second > 1e-5 * np.abs(large).max()
            assert given["label_map"].dtype == np.uint8
            assert clear.mean() > 0.9
            assert len(np.unique(given["label_map"])) > 1
            np.testing.assert_array_equal(given["label_map"][clear], label_map(given["logits"], (SIDE, SIDE))[clear])


@pytest.mark.parametrize("target", list(TARGETS))
def test_raw_outputs_in_integers_are_what_they_are_without(both: Both, target: str) -> None:
    pairs = zip(both.decoded[f"{target}.int8"], both.raw[f"{target}.int8"], strict=True)
    for inside, raw in pairs:
        assert list(inside)[: len(raw)] == list(raw)
        for name, values in raw.items():
            np.testing.assert_array_equal(inside[name], values)


def test_a_bundle_says_what_is_decoded_and_runs_as_before(tmp_path: Path) -> None:
    source = with_decodings(source_of("detection"))
    samples = CalibrationSamples(photos(8), source.preprocess)
    options = ExportOptions(targets=("onnx",), precisions=("fp32",))
    manifest = export(source, samples, photos(2), tmp_path, options).manifest
    assert [spec.name for spec in manifest.outputs] == ["boxes", "logits"]
    assert [(spec.name, spec.shape[2]) for spec in manifest.decoded] == [("decoded_boxes", 4), ("scores", LABELS)]
    assert self_test(open_bundle(tmp_path)).passed
    with load(tmp_path / "onnx/model.fp32.onnx") as detector:
        assert detector.manifest.decoded == manifest.decoded
        detector.predict(photos(1)[0])


@pytest.mark.parametrize(("precision", "io"), [("int8", "int8"), ("w8a16", "float")])
def test_where_nothing_can_be_decoded_is_said_first(precision: str, io: str, tmp_path: Path) -> None:
    source = with_decodings(source_of("segmentation"))
    options = ExportOptions(targets=("tflite",), precisions=(precision,), int8=Int8Options(io=io))
    with pytest.raises(UsageError, match="upsampled_logits, label_map"):
        export(source, CalibrationSamples(photos(8), source.preprocess), [], tmp_path, options)
