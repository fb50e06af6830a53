"""Exports that are broken the way converters break them: verification must stop each one and name it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgetl.data.dataset import Sample, load_labelled, load_photos, pick
from edgetl.models.checkpoint import Checkpoint, load_labels
from edgetl.pipeline import export_checkpoint, verify_bundle
from edgetl.recipe import ExportSection
from edgetl.verify.report import Report
from edgetl.verify.verify import VerifyOptions
from edgetl_export.capture import ExportedModule
from edgetl_export.quantize.pixels import PixelModule
from edgetl_export.quantize.quantization import Quantized

pytestmark = [pytest.mark.data, pytest.mark.slow]

QUICK = VerifyOptions(latency_seconds=0, layers=False, diagnose=False)
SIZE = 192
"""A little less than what it was trained for: every fault is as plain."""


@pytest.fixture(scope="module")
def checkpoint(edgetl_data: Path) -> Checkpoint:
    """MobileNetV2 with ImageNet weights: trained, and sensitive to what is done to it."""
    return Checkpoint.from_weights(
        edgetl_data / "weights" / "mobilenet_v2_imagenet1k.safetensors",
        backbone="mobilenet_v2",
        labels=load_labels(edgetl_data / "imagenet_labels.json"),
        image_size=SIZE,
    )


@pytest.fixture(scope="module")
def judge(checkpoint: Checkpoint, edgetl_data: Path) -> Callable[[Path], Report]:
    samples, _ = load_labelled(edgetl_data / "imagenet_sample" / "evaluation", checkpoint.labels)
    chosen = pick(samples, 60)
    return lambda bundle: verify_bundle(bundle, chosen, QUICK).report


@pytest.fixture(scope="module")
def photos(edgetl_data: Path) -> tuple[Sample, ...]:
    return pick(load_photos(edgetl_data / "imagenet_sample" / "calibration"), 40)


@pytest.fixture(scope="module")
def sound(checkpoint: Checkpoint, photos: tuple[Sample, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound") / "imagenet.edgetl"
    export_checkpoint(checkpoint, photos, out, ExportSection(("onnx", "openvino"), ("fp32", "int8")))
    return out


def test_the_sound_export_passes(sound: Path, judge: Callable[[Path], Report]) -> None:
    report = judge(sound)
    assert report.verdict.passed, report.verdict.failed
    for variant in report.variants:
        assert variant.parity is not None
        if variant.precision == "fp32":
            assert variant.parity.top1_agreement == 1.0
            assert variant.parity.sqnr_db >= 80


def test_a_corrupted_weight(sound: Path, judge: Callable[[Path], Report], tmp_path: Path) -> None:
    broken = tmp_path / "broken.edgetl"
    broken.mkdir()
    for entry in sound.iterdir():
        (broken / entry.name).symlink_to(entry)
    (broken / "onnx").unlink()
    (broken / "onnx").mkdir()
    (broken / "manifest.json").unlink()
    for file in (sound / "onnx").iterdir():
        (broken / "onnx" / file.name).write_bytes(file.read_bytes())
    path = broken / "onnx" / "model.fp32.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("features.9.conv.2.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[7] *= -1  # one output channel of one layer of 52
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    manifest = json.loads((sound / "manifest.json").read_text())
    for variant in manifest["variants"]:
        for file in variant["files"]:
            content = (broken / file["path"]).read_bytes()
            file["sha256"], file["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    for field in ("sealed", "seal"):  # it was sealed as it stood
        del manifest[field]
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert _failed(judge(broken)) == {"onnx.fp32"}


def test_blue_for_red(
    checkpoint: Checkpoint,
    photos: tuple[Sample, ...],
    judge: Callable[[Path], Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (ExportedModule, PixelModule):
        right = module.forward
        monkeypatch.setattr(module, "forward", lambda self, image, right=right: right(self, torch.flip(image, [3])))
    out = tmp_path / "bgr.edgetl"
    export_checkpoint(checkpoint, photos, out, ExportSection(("onnx",), ("fp32", "int8")))
    assert _failed(judge(out)) == {"onnx.fp32", "onnx.int8"}


def test_weights_quantised_per_tensor(
    checkpoint: Checkpoint,
    photos: tuple[Sample, ...],
    judge: Callable[[Path], Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Quantized.channel_scales
    monkeypatch.setattr(Quantized, "channel_scales", lambda *given: np.full_like(right(*given), right(*given).max()))
    out = tmp_path / "per-tensor.edgetl"
    export_checkpoint(checkpoint, photos, out, ExportSection(("onnx",), ("fp32", "int8")))
    report = judge(out)
    assert _failed(report) == {"onnx.int8"}
    parity = report.variant("onnx.int8").parity
    assert parity is not None
    assert parity.top1_agreement < 0.7


def test_another_reference_is_noticed(sound: Path, checkpoint: Checkpoint, judge: Callable[[Path], Report]) -> None:
    """The reference is the checkpoint and nothing else: a changed one disagrees with every variant."""
    state = {key: value.clone() for key, value in checkpoint.state.items()}
    state["classifier.1.weight"] = state["classifier.1.weight"].roll(1, 0)
    samples = [Sample(np.zeros((SIZE, SIZE, 3), np.uint8) + level, 0, str(level)) for level in range(0, 250, 25)]
    outcome = verify_bundle(sound, samples, QUICK, reference=dataclasses.replace(checkpoint, state=state))
    assert not outcome.report.verdict.passed


def _failed(report: Report) -> set[str]:
    return {check.variant for check in report.verdict.failed}
