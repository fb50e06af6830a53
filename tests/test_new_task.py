"""A new task is one folder and one module of the device: it trains, exports, verifies, predicts, no edits elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgetl.models.heads
import edgetl.tasks
import edgetl_runtime.tasks
import tests.counting
from edgetl import api
from edgetl.cli.main import main
from edgetl.data.options import DataOptions
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.heads import HeadSpec
from edgetl.recipe import Recipe
from edgetl.training.finetune import finetune
from edgetl.training.options import TrainOptions
from edgetl.verify.bundle import verify_bundle
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Report
from edgetl_export.bundle_writer import write_manifest
from edgetl_export.progress import silent
from edgetl_runtime import cli, load, open_bundle, self_test
from edgetl_runtime.errors import BundleError
from edgetl_runtime.manifest import FileEntry, Preprocess
from edgetl_runtime.verification import read_verified
from tests.counting.device import Counter
from tests.zoo import StridedNet, as_backbone

pytestmark = pytest.mark.slow

SIZE, MOST = 32, 4


def picture(rng: np.random.Generator, n: int) -> Image.Image:
    """`n` bright blobs of 6 pixels, none upon another, on dark noise."""
    pixels = rng.integers(0, 40, (SIZE, SIZE, 3), np.uint8)
    for place in rng.permutation(16)[:n]:
        row, column = 8 * (place // 4) + 1, 8 * (place % 4) + 1
        pixels[row : row + 6, column : column + 6] = 240
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    lines = []
    for index in range(300):
        n = index * 7 % (MOST + 1)
        picture(rng, n).save(folder / f"{index:03d}.png")
        lines.append(f"{index:03d}.png,{n}")
    (folder / "counts.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Two lines, as one writes them into the two tables."""
    with pytest.MonkeyPatch.context() as patch, as_backbone("stridednet", StridedNet):
        patch.setitem(edgetl.tasks.TASKS, "counting", "tests.counting")
        patch.setitem(edgetl_runtime.tasks.TASKS, "counting", "tests.counting.device")
        yield


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``edgetl run`` from the command line, nine variants."""
    out = tmp_path_factory.mktemp("counting") / "blobs.edgetl"
    words = ["run", "--task", "counting", "--data", str(photos), "--out", str(out), "--weights", "none"]
    words += ["--backbone", "stridednet", "--strategy", "full", "--image-size", str(SIZE)]
    words += ["--epochs", "16", "--batch-size", "16", "--lr", "0.002", "--augment", "none"]
    assert main(words) in (0, 1)
    return out


def test_it_learns_and_is_exported_to_nine_variants(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.task == "counting"
    assert [spec.name for spec in opened.manifest.outputs] == ["count"]
    assert len(opened.manifest.variants) == 9
    report = Report.from_json((bundle / "report.json").read_bytes(), where="report.json")
    assert (report.task, report.reference) == ("counting", None)
    assert report.quality is not None
    assert (report.quality.name, report.quality.n) == ("exact", 60)
    assert report.quality.value > 0.5, "it has learned to count; by chance it would be 0.2"
    for variant in report.variants:
        assert variant.error is None
        assert variant.accuracy is None
        assert variant.parity is not None
        assert variant.parity.top1_agreement is None
        assert variant.quality is not None
    assert report.variant("onnx.fp32").quality.delta == 0.0  # type: ignore[union-attr]
    assert report.tables[0].title == "How far counts are off"


def test_its_columns_and_tables_are_in_the_pages(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "exact" in page
    assert "How far counts are off" in page
    assert "Farthest off" in page
    assert "top-1" not in page
    assert "edgetl-run predict device.edgetl photo.jpg" in page
    assert "--draw" not in page, "a number has no place in a photo"
    assert "top=3" not in page


def test_it_predicts_typed_results(bundle: Path, photos: Path) -> None:
    with load(bundle, variant="onnx.fp32", kind=Counter) as counter:
        assert repr(counter).startswith("<Counter 'blobs'")
        results = [counter.predict(photos / f"{index:03d}.png") for index in range(0, 100, 5)]
        assert counter.predict_batch([photos / "000.png", photos / "005.png"]) == results[:2]
        assert counter.predict(photos / "002.png", most=1).n <= 1
    right = [result.n == index * 7 % (MOST + 1) for index, result in zip(range(0, 100, 5), results, strict=True)]
    assert np.mean(right) > 0.4


def test_the_fastest_that_passed_is_chosen(bundle: Path, photos: Path) -> None:
    with load(bundle, max_drop=0.49) as counter:
        assert counter.choice is not None
        chosen = next(item for item in counter.choice.candidates if item.variant == counter.variant.id)
    assert chosen.top1_agreement is not None, "what verification said of it is known"
    recorded = read_verified(open_bundle(bundle))["onnx.fp32"]
    assert (recorded.quality, recorded.top1_agreement, recorded.drop) == ("exact", 1.0, 0.0)
    assert recorded.top1 is not None


def test_the_devices_command_line_knows_its_options(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(bundle), str(photos / "003.png"), "--variant", "onnx.fp32"]
    assert cli.main([*words, "--most", "0"]) == 0
    assert ": 0 blobs (" in capsys.readouterr().out
    assert cli.main([*words, "--top", "2"]) == 2
    assert "--top says nothing in counting" in capsys.readouterr().err


def test_it_passes_its_self_test(bundle: Path) -> None:
    result = self_test(open_bundle(bundle), variant_ids=("onnx.fp32", "tflite.fp32", "openvino.fp32"))
    assert result.passed
    assert [test.agreement for test in result.variants] == [1.0, 1.0, 1.0]


def test_a_gate_judges_it(bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate, proposed = tmp_path / "gate.toml", tmp_path / "proposed.toml"
    gate.write_text('[default]\nexact = 0.4\nagreement = 0.9\n[variant."tflite.fp32"]\nexact = 1.0\n', encoding="utf-8")
    words = ["verify", str(bundle), "--data", str(photos), "--variants"]
    some = "onnx.fp32,tflite.fp32"
    report = tmp_path / "report.json"
    code = main([*words, some, "--gate", str(gate), "--json", str(report), "--write-gate", str(proposed)])
    found = Report.from_json(report.read_bytes(), where="report.json")
    quality = found.variant("tflite.fp32").quality
    assert quality is not None
    failed = {(check.variant, check.what) for check in found.verdict.failed}
    assert failed == (set() if quality.value == 1.0 else {("tflite.fp32", "exact")})
    assert code == bool(failed)
    assert "agreement = " in proposed.read_text(encoding="utf-8")
    again = main([*words, "onnx.fp32", "--gate", str(proposed), "--baseline", str(report), "--json", str(report)])
    assert again == 0, capsys.readouterr().err


def test_a_variant_that_counts_otherwise_fails(bundle: Path, photos: Path, tmp_path: Path) -> None:
    """The planted fault: the last layer of the ONNX file counts one and a half more."""
    copy = tmp_path / "damaged.edgetl"
    shutil.copytree(bundle, copy)
    file = copy / "onnx/model.fp32.onnx"
    model = onnx.load(file)
    bias = next(item for item in model.graph.initializer if list(item.dims) == [1])
    values = onnx.numpy_helper.to_array(bias) + np.float32(1.5)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    content = model.SerializeToString()
    file.write_bytes(content)
    manifest = open_bundle(copy).manifest
    entry = FileEntry("onnx/model.fp32.onnx", hashlib.sha256(content).hexdigest(), len(content))
    variants = tuple(
        dataclasses.replace(item, files=(entry,)) if item.id == "onnx.fp32" else item for item in manifest.variants
    )
    write_manifest(copy, dataclasses.replace(manifest, variants=variants))
    report = verify_bundle(copy, photos, VerifyOptions(latency_seconds=0.0), variants=["onnx.fp32"]).report
    failed = {check.what for check in report.verdict.failed if check.variant == "onnx.fp32"}
    assert {"agreement", "sqnr_db"} <= failed


def test_what_is_not_known_is_refused(photos: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match="did you mean 'counting'"):
        api.finetune(photos, recipe=Recipe().updated({"data": {"task": "countin"}}, where="test"))


def test_a_task_may_have_a_head_of_its_own(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the checkpoint with its settings, its decoder in every file, and its defaults are told."""
    monkeypatch.setitem(edgetl.models.heads.HEADS, "bumps", "tests.counting.head")
    task = tests.counting.TASK
    for name, value in {"heads": ("bumps",), "strategy": "full", "mode": "stretch", "image_size": SIZE}.items():
        monkeypatch.setattr(task, name, value)
    monkeypatch.setattr(task, "head", lambda data, name, spec: HeadSpec(name, {"scale": 4.0 * len(data.labels)}))
    monkeypatch.setattr(task, "defaults", lambda situation: {"epochs": (3, "of the task"), "ema": (0.5, "likewise")})
    words = ["--task", "counting", "--data", str(photos), "--weights", "none", "--backbone", "mobilenet_v3_small"]
    assert main(["train", *words, "--out", str(tmp_path / "trained")]) == 0
    assert "epochs 3: of the task" in capsys.readouterr().err
    checkpoint = Checkpoint.load(tmp_path / "trained")
    assert checkpoint.head == HeadSpec("bumps", {"scale": 4.0})
    assert checkpoint.preprocess == Preprocess(0, (SIZE, SIZE), mode="stretch")
    exporting = ["export", str(tmp_path / "trained"), "--calibration", str(photos), "--targets", "onnx"]
    assert main([*exporting, "--precisions", "fp32,int8", "--out", str(tmp_path / "b")]) == 0
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.decoder == {"scale": 4.0}
    with load(tmp_path / "b" / "onnx" / "model.int8.onnx", kind=Counter) as counter:
        assert counter.manifest.decoder == {"scale": 4.0}
    data = task.read(photos, DataOptions(), spec=checkpoint.preprocess, track=silent)
    further = finetune(data, checkpoint, TrainOptions(epochs=1))
    assert (further.checkpoint.head, further.options.strategy) == (checkpoint.head, "full")
    assert main(["train", *words, "--head", "bump", "--out", str(tmp_path / "other")]) == 2
    assert "counting has no head 'bump'" in capsys.readouterr().err
