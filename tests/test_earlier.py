"""What an earlier version wrote still loads, runs, verifies and exports. See tests/earlier/README.md."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetl_runtime
from edgetl import api
from edgetl.models.checkpoint import Checkpoint
from edgetl.recipe import read_recipe
from edgetl.verify.gate.limits import read_gate
from edgetl.verify.report import Report
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.machine import cpu_features

pytestmark = pytest.mark.slow

WRITTEN = Path(__file__).parent / "earlier"
COMMIT = "795370e"
LABELS = ["one", "three", "two", "zero"]
VARIANTS = [f"{target}.{precision}" for target in ("onnx", "tflite", "openvino") for precision in ("fp32", "int8")]
# These files were made where sums do not outgrow 16 bits: elsewhere their engines clip them, and edgetl says so.
CLIPPED = {"onnx.int8", "openvino.int8"} if cpu_features().adds_in_16_bits else set()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(COMMIT)
    with tarfile.open(WRITTEN / f"{COMMIT}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos that its model was judged on: each fourth digit of 0 to 3, one folder per label."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for i, (image, kind) in enumerate(zip(data.images, data.target, strict=True)):
        if kind < 4 and i % 4 == 0:
            path = folder / "val" / ["zero", "one", "two", "three"][kind] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB").save(path)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bundle_loads_and_predicts(earlier: Path, digits: Path, variant: str) -> None:
    photo = next((digits / "val" / "one").iterdir())
    with edgetl_runtime.load(earlier / "small.edgetl", variant=variant) as classifier:
        prediction = classifier.predict(photo, top=4)
    assert sorted(score.id for score in prediction.scores) == LABELS


def test_it_passes_its_self_test(earlier: Path) -> None:
    result = edgetl_runtime.self_test(open_bundle(earlier / "small.edgetl"))
    assert {variant.id for variant in result.variants if not variant.passed} <= CLIPPED
    assert len(result.variants) == len(VARIANTS)


def test_verification_comes_to_what_it_came_to_then(earlier: Path, digits: Path) -> None:
    report = api.verify(
        earlier / "small.edgetl", digits, gate=earlier / "gate.toml", baseline=earlier / "accepted.json"
    )
    failed = [check for check in report.verdict.failed if check.what != "p50_ratio"]  # of another machine
    assert {check.variant for check in failed} <= CLIPPED
    before = Report.from_json((earlier / "accepted.json").read_bytes(), where="accepted.json")
    assert report.data == before.data
    for variant_id in VARIANTS:
        then, now = before.variant(variant_id).parity, report.variant(variant_id).parity
        assert then is not None
        assert now is not None
        if variant_id not in CLIPPED:
            assert now.top1_agreement == pytest.approx(then.top1_agreement, abs=0.05)


def test_it_is_packed_for_a_device(earlier: Path, digits: Path, tmp_path: Path) -> None:
    out = api.pack(earlier / "small.edgetl", out=tmp_path / "pi.edgetl", variants=["tflite.int8"])
    before = sum(path.stat().st_size for path in (earlier / "small.edgetl").rglob("*") if path.is_file())
    assert out.stat().st_size < before / 10
    bundle = open_bundle(out)
    bundle.check()
    assert edgetl_runtime.self_test(bundle).passed
    assert bundle.read("labels.txt").decode().split() == LABELS
    photo = next((digits / "val" / "one").iterdir())
    with edgetl_runtime.load(out) as classifier:
        assert len(classifier.predict(photo, top=4).scores) == 4


def test_a_gate_that_asks_for_more_fails(earlier: Path, digits: Path) -> None:
    stricter = dataclasses.replace(read_gate(earlier / "gate.toml"), variant={"onnx.int8": {"sqnr_db": 150.0}})
    report = api.verify(earlier / "small.edgetl", digits, gate=stricter)
    failed = {check.variant for check in report.verdict.failed if check.what == "sqnr_db"}
    assert {"onnx.int8"} <= failed <= {"onnx.int8", *CLIPPED}


def test_a_checkpoint_is_exported(earlier: Path, digits: Path, tmp_path: Path) -> None:
    recipe = read_recipe(earlier / "recipe.toml")
    options = dataclasses.replace(recipe.export, targets=("onnx",), precisions=("fp32",))
    checkpoint = Checkpoint.load(earlier / "small.edgetl" / "reference")
    api.export(checkpoint, calibration=digits, out=tmp_path / "again.edgetl", options=options)
    again = open_bundle(tmp_path / "again.edgetl").manifest
    was = open_bundle(earlier / "small.edgetl").manifest
    assert again.labels == was.labels
    assert again.preprocess == was.preprocess
