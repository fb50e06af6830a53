"""Detection from photos with boxes to predictions: one run of the command line, at the size of a toy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edgetl.cli.main import main
from edgetl.tasks.detection.demo import SHAPES, demo_shapes
from edgetl_runtime import Detector, cli, load, open_bundle, self_test
from tests.edgetl.tasks.conftest import OnnxAlone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the demo's, as YOLO has it."""
    root, data = tmp_path_factory.mktemp("shapes"), demo_shapes(0)
    (root / "classes.txt").write_text("\n".join(SHAPES))
    for split, samples in {"train": data.train[:48], "val": data.val[:12]}.items():
        (root / split).mkdir()
        for sample in samples:
            assert sample.target is not None
            Image.fromarray(sample.source).save(root / split / f"{sample.name}.png")  # type: ignore[arg-type]
            rows = [
                f"{int(label)} {(x1 + x2) / 256} {(y1 + y2) / 256} {(x2 - x1) / 128} {(y2 - y1) / 128}"
                for x1, y1, x2, y2, label, _ in sample.target.tolist()
            ]
            (root / split / f"{sample.name}.txt").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detection") / "shapes.edgetl"
    words = ["run", "--task", "detection", "--data", str(photos), "--out", str(out), "--weights", "none"]
    words += ["--backbone", "mnasnet0_5", "--strategy", "full", "--image-size", "96", "--epochs", "2"]
    words += ["--targets", "onnx", "--precisions", "fp32,int8", "--boxes-in-graph"]
    assert main(words) in (0, 1)
    return out


def test_the_bundle_says_how_boxes_are_decoded(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.task == "detection"
    assert [spec.name for spec in manifest.outputs] == ["boxes", "logits"]
    assert [spec.name for spec in manifest.decoded] == ["decoded_boxes", "scores"]
    assert manifest.preprocess.mode == "stretch"
    assert manifest.decoder is not None
    assert manifest.decoder["head"] == "ssdlite"
    with load(bundle / "onnx/model.int8.onnx", kind=Detector) as detector:
        assert detector.manifest.decoder == manifest.decoder
    assert all(variant.passed for variant in self_test(open_bundle(bundle)).variants)


def test_the_report_has_what_detection_has(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert report["task"] == "detection"
    assert len(report["tables"]) == 3
    fp32 = next(variant for variant in report["variants"] if variant["id"] == "onnx.fp32")
    assert fp32["parity"]["agreement"] == 1.0
    assert fp32["parity"]["sqnr_db"] > 90
    assert fp32["quality"]["name"] == "mAP"
    # Two epochs leave scores that differ by no more than float rounding: mAP sees the order that one of them gets.
    assert fp32["quality"]["delta"] == pytest.approx(0.0, abs=1e-3)


def test_predict_and_draw(bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, drawn, found = sorted((photos / "val").glob("*.png"))[0], tmp_path / "d.png", tmp_path / "p.json"
    words = ["predict", str(bundle), str(photo), "--score", "0.05", "--most", "3", "--classes", "circle,star"]
    assert cli.main([*words, "--draw", str(drawn), "--json", str(found)]) == 0
    assert Image.open(drawn).size == (128, 128)
    objects = json.loads(found.read_text())["predictions"][0]["objects"]
    assert len(objects) <= 3
    assert {one["id"] for one in objects} <= {"circle", "star"}
    assert capsys.readouterr().out.startswith(str(photo))


def test_a_device_without_torch_does_all_of_it(
    bundle: Path, photos: Path, tmp_path: Path, onnx_alone: OnnxAlone
) -> None:
    found = onnx_alone.check(bundle, sorted((photos / "val").glob("*.png"))[0], tmp_path)
    assert "objects" in found
    assert "decoded    scores float32" in onnx_alone.run("info", str(bundle))


def test_what_says_nothing_here_is_refused(bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(sorted((photos / "val").glob("*.png"))[0])
    assert cli.main(["predict", str(bundle), photo, "--top", "3"]) == 2
    assert "--top says nothing in detection" in capsys.readouterr().err
    assert cli.main(["predict", str(bundle), photo, photo + "x", "--draw", "one.jpg"]) == 2
    arguments = ["--task", "detection", "--data", str(photos), "--out", str(bundle), "--force", "--weights", "none"]
    assert main(["run", *arguments, "--strategy", "full", "--mixup", "0.2"]) == 2
    assert "--mixup says nothing in detection" in capsys.readouterr().err
