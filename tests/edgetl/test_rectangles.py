"""Images that are wider than high, and higher than wide: from photos to a bundle whose variants all decide alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgetl import pipeline
from edgetl.cli.main import main
from edgetl.models.checkpoint import Checkpoint, open_checkpoint
from edgetl.models.image_size import size_text
from edgetl.recipe import ExportSection, Recipe
from edgetl.reports.html import render_html
from edgetl.verify.bundle import source_of
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Report
from edgetl_export.bundle_writer import write_manifest
from edgetl_export.capture import ExportedModule
from edgetl_export.quantize.pixels import PixelModule
from edgetl_runtime import BundleError, load, open_bundle, preprocess
from edgetl_runtime.cli import main as run_on_device
from edgetl_runtime.selftest import self_test

pytestmark = pytest.mark.slow

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]

KINDS = ("bars", "ends", "plain", "stripes")
"""Bars and stripes are each other with rows taken for columns; ends are seen where all of the longer side is."""
WIDE, HIGH = (32, 56), (64, 32)


def pictures(kind: str, n: int, size: Size, seed: int) -> list[Pixels]:
    """Photos of noise with a pattern, of the proportions of `size` and a quarter larger."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    height, width = (side * 5 // 4 for side in size)
    rows, columns = np.mgrid[0:height, 0:width]
    along, length = (columns, width) if width > height else (rows, height)
    at_ends = (along < length / 5) | (along >= length * 4 / 5)
    wave = {
        "plain": 0 * rows,
        "bars": columns // 4 % 2,
        "stripes": rows // 4 % 2,
        "ends": at_ends * ((rows // 4 + columns // 4) % 2) * 2,
    }[kind]
    images = rng.normal(110, 25, (n, height, width, 3)) + (wave * rng.uniform(45, 75, (n, 1, 1)))[..., np.newaxis]
    return list(np.clip(images, 0, 255).astype(np.uint8))


def write_pictures(folder: Path, size: Size, n: int = 30) -> Path:
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for index, pixels in enumerate(pictures(kind, n, size, seed=0)):
            Image.fromarray(pixels).save(folder / kind / f"{index:02d}.png")
    return folder


def recipe_for(data: Path, backbone: str, size: object, **train: Any) -> Recipe:
    options = {"strategy": "full", "epochs": 14, "batch_size": 12, "augment": "none", "lr": 0.02, **train}
    model = {"backbone": backbone, "weights": "none", "image_size": size}
    return Recipe().updated({"data": {"path": data}, "model": model, "train": options})


def verified(bundle: Path, data: Path) -> Report:
    return pipeline.verify_bundle(bundle, data, VerifyOptions(latency_seconds=0)).report


@pytest.mark.parametrize(
    ("size", "written", "targets"),
    [(WIDE, "32x56", ("onnx", "tflite", "openvino")), (HIGH, [64, 32], ("onnx",))],
    ids=["wide", "high"],
)
def test_photos_to_predictions(
    size: Size,
    written: object,
    targets: tuple[str, ...],
    tiny: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = write_pictures(tmp_path / "data", size), tmp_path / "a.edgetl"
    _, trained = pipeline.train(recipe_for(data, tiny, written))
    assert trained.history.best.val_top1 > 0.9
    trained.checkpoint.save(tmp_path / "checkpoint")
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.preprocess == trained.checkpoint.preprocess
    assert checkpoint.preprocess.crop == size
    assert checkpoint.preprocess.covered == tuple(side * 9 // 8 for side in size)
    pipeline.export_checkpoint(checkpoint, data, out, ExportSection(targets, ("fp32", "int8")))
    report = verified(out, data)
    assert report.verdict.passed
    assert report.reference.top1 > 0.95
    parity = {variant.id: variant.parity for variant in report.variants}
    assert set(parity) == {f"{target}.{precision}" for target in targets for precision in ("fp32", "int8")}
    for variant, found in parity.items():
        assert found is not None
        assert found.top1_agreement >= (1.0 if variant.endswith("fp32") else 0.95), variant
        assert found.sqnr_db > (90 if variant.endswith("fp32") else 22), variant
    assert f"{size[0]} x {size[1]} pixels (height x width), 3 channels" in render_html(report)
    check_bundle(out, size)
    check_device(out, size, checkpoint, parity)
    assert run_on_device(["info", str(out)]) == 0
    assert f"centre crop {size[0]}x{size[1]} (height x width)" in " ".join(capsys.readouterr().out.split())
    photo = next((data / "ends").glob("*.png"))
    assert run_on_device(["bench", str(out), "--seconds", "0.05"]) == 0
    assert run_on_device(["predict", str(out), str(photo), "--variant", "onnx.int8"]) == 0
    assert "ends" in capsys.readouterr().out


def check_bundle(path: Path, size: Size) -> None:
    opened = open_bundle(path)
    opened.check()
    manifest, golden = opened.manifest, opened.golden()
    assert manifest.input.shape == (1, *size, 3)
    assert golden is not None
    assert golden.tensors.shape == (16, *size, 3)
    assert self_test(opened).passed


def check_device(path: Path, size: Size, checkpoint: Checkpoint, variants: Iterable[str]) -> None:
    """Every variant, one photo and many at once, decides as the original does, and fp32 is as sure as it."""
    fresh = [pictures(kind, 1, size, seed=9)[0] for kind in KINDS]
    tensors = np.stack([preprocess(image, checkpoint.preprocess) for image in fresh])
    logits = source_of(checkpoint, "original").reference()(tensors).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    assert [KINDS[place] for place in logits.argmax(axis=1)] == list(KINDS)
    for variant in variants:
        with load(path, variant=variant) as classifier:
            given = [classifier.predict(image).top for image in fresh]
            assert [top.id for top in given] == list(KINDS), variant
            assert [found.top.id for found in classifier.predict_batch(fresh)] == list(KINDS), variant
            assert [found.top.id for found in classifier.stream(fresh)] == list(KINDS), variant
        if variant.endswith("fp32"):
            assert [top.probability for top in given] == pytest.approx(sure.tolist(), abs=1e-4)


@pytest.fixture
def checkpoint(tiny: str, tmp_path: Path) -> Checkpoint:
    """Of wide images; the photos are in ``data``."""
    data = write_pictures(tmp_path / "data", WIDE, n=20)
    return pipeline.train(recipe_for(data, tiny, WIDE))[1].checkpoint


def test_rows_taken_for_columns_fail_and_are_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ExportedModule, PixelModule):
        right = module.forward

        def transposed(self: Any, image: torch.Tensor, right: Any = right) -> Any:
            return right(self, image.reshape(-1, WIDE[1], WIDE[0], 3).permute(0, 2, 1, 3))

        monkeypatch.setattr(module, "forward", transposed)
    out = tmp_path / "transposed.edgetl"
    pipeline.export_checkpoint(checkpoint, tmp_path / "data", out, ExportSection(("onnx",), ("fp32",)))
    report = verified(out, tmp_path / "data")
    assert not report.verdict.passed
    assert "height and width are swapped" in [found.cause for found in report.variant("onnx.fp32").findings]


def test_a_manifest_with_the_sides_exchanged_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "a.edgetl"
    pipeline.export_checkpoint(checkpoint, tmp_path / "data", out, ExportSection(("onnx",), ("fp32",)))
    manifest = open_bundle(out).manifest
    spec = manifest.preprocess
    exchanged = dataclasses.replace(spec, crop=spec.crop[::-1], resize=spec.covered[::-1])
    write_manifest(out, dataclasses.replace(manifest, preprocess=exchanged, golden=None))
    with pytest.raises(BundleError, match=r"\[1, 32, 56, 3\]; a Classifier feeds uint8 images \[n, 56, 32, 3\]"):
        load(out, variant="onnx.fp32")


def test_weights_on_the_command_line(
    checkpoint: Checkpoint, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(checkpoint.state, tmp_path / "w.safetensors")
    given = ["export", str(tmp_path / "w.safetensors"), "--backbone", tiny, "--calibration", str(tmp_path / "data")]
    given += ["--targets", "onnx", "--precisions", "fp32", "--out", str(tmp_path / "w.edgetl")]
    for bad, said in (("32x", "HEIGHTxWIDTH"), ("32,56", '"32x56" for 32 rows'), ("16x56", "16x56 is too small")):
        assert main([*given, "--image-size", bad]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "w.edgetl").exists()
    assert main([*given, "--image-size", "32x56"]) == 0
    manifest = json.loads((tmp_path / "w.edgetl" / "manifest.json").read_text())
    assert manifest["preprocess"]["resize"] == [36, 63]
    assert manifest["preprocess"]["crop"] == [32, 56]
    checkpoint.save(tmp_path / "checkpoint")
    assert main(["export", str(tmp_path / "checkpoint"), *given[4:], "--image-size", "32x56"]) == 2
    assert "which knows its own --image-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "head-then-full", "augment": "similar", "mixup": 0.4, "cutmix": 1.0, "ema": 0.9},
        {"augment": "different", "dropout": 0.1, "qat": True},
        {"augment": "shift", "hidden": 8, "imbalance": "sampler"},
    ],
    ids=["head-then-full", "qat", "hidden"],
)
def test_every_way_of_training_takes_a_rectangle(options: dict[str, Any], tiny: str, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", HIGH, n=12)
    weights = tmp_path / "w.safetensors"
    _, first = pipeline.train(recipe_for(data, tiny, HIGH, epochs=1))
    save_file(first.checkpoint.state, weights)
    recipe = recipe_for(data, tiny, HIGH, epochs=2, **options).updated({"model": {"weights": str(weights)}})
    _, trained = pipeline.train(recipe)
    assert trained.checkpoint.preprocess.crop == HIGH
    network = trained.checkpoint.build()
    assert network(torch.zeros(1, 3, *HIGH)).shape == (1, len(KINDS))
    if "qat" not in options:
        assert 1e-5 < pipeline.find_rate(recipe).suggestion < 1.0


def test_pixels_that_are_kept_are_of_their_own_shape(tiny: str, tmp_path: Path) -> None:
    """Two trainings on the same photos, wide and high, share a cache and do not mix."""
    data = write_pictures(tmp_path / "data", WIDE, n=12)
    for size in (WIDE, WIDE[::-1], WIDE):
        _, trained = pipeline.train(recipe_for(data, tiny, size_text(size), epochs=1))
        assert trained.checkpoint.preprocess.crop == size
