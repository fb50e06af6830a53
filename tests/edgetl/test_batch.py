"""``--batch N|free`` from the command line, a recipe and Python to a bundle, its report and the device's commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgetl import api, pipeline
from edgetl.cli.main import main
from edgetl.models.options import ModelOptions
from edgetl.recipe import ExportSection, Recipe, read_recipe
from edgetl_runtime import load, open_bundle
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.cli import main as run_on_device
from edgetl_runtime.errors import ExportError, UsageError
from tests.edgetl.conftest import MakePhotos

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    for split, n in (("train", 24), ("val", 10)):
        make_photos(tmp_path / "data" / split, {"red": n, "green": n, "blue": n})
    return tmp_path / "data"


@pytest.fixture
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("this was to be refused before the training")

    monkeypatch.setattr(pipeline, "train", fail)


def command(tiny: str, photos: Path, *more: str) -> list[str]:
    model = ["--backbone", tiny, "--weights", "none", "--strategy", "full", "--epochs", "3", "--image-size", "32"]
    return ["run", "--data", str(photos), *model, *more]


@pytest.mark.parametrize(
    ("word", "targets", "precisions"), [("free", "onnx,openvino", "int8"), ("4", "onnx,tflite", "fp32")]
)
def test_from_photos_to_a_device(
    word: str, targets: str, precisions: str, tiny: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    """All formats in all precisions are the matter of tests/export/test_batch.py."""
    out, batch = tmp_path / "out.edgetl", FREE if word == "free" else int(word)
    said = ["--targets", targets, "--precisions", precisions, "--batch", word, "--out", str(out)]
    assert main(command(tiny, photos, *said)) == 0
    assert "in one run" in capsys.readouterr().err
    bundle = open_bundle(out)
    assert bundle.manifest.input.shape[0] == batch
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    checks = [check for check in report["verdict"]["checks"] if check["what"] == "batch"]
    assert {check["variant"] for check in checks} == {variant.id for variant in bundle.manifest.variants}
    assert all(check["passed"] for check in checks)
    assert {variant["latency"]["batch"] for variant in report["variants"]} == {batch}

    assert run_on_device(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    wanted = "any number of images in one run" if word == "free" else "4 images in one run, no more and no fewer"
    assert f"batch      {wanted}\n" in shown
    assert run_on_device(["self-test", str(out)]) == 0
    assert run_on_device(["bench", str(out), "--seconds", "0.05", "--json", str(tmp_path / "bench.json")]) == 0
    shown = capsys.readouterr().out
    assert ("batch 4 (one image, filled up)" if batch == 4 else "milliseconds, batch 1,") in shown
    benched = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert {variant["latency"]["batch"] for variant in benched["variants"]} == {batch}
    files = sorted(map(str, (photos / "val").rglob("*.jpg")))
    assert run_on_device(["predict", str(out), *files, "--json", str(tmp_path / "p.json")]) == 0
    predicted = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["predictions"]
    with load(out, variant=json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["variant"]) as classifier:
        together = classifier.predict_batch(files)
    assert [one.top.id for one in together] == [one["top"]["id"] for one in predicted]
    assert main(["verify", str(out), "--data", str(photos)]) == 0


@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--batch", "free"], "tflite files take a fixed number of images in one run, not any"),
        (["--batch", "free", "--targets", "tflite"], "--batch 8"),
        (["--batch", "0"], "batch = 0 makes no sense"),
        (["--batch", "many"], "batch = 'many' makes no sense"),
        (["--batch", "2.5"], "1 to 1024, or free"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(
    more: list[str], says: str, tiny: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(command(tiny, photos, *more, "--out", str(tmp_path / "out"))) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_trains")
def test_a_network_that_counts_its_images_is_found_before_any_training(
    tiny: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import zoo

    def counting(self: Any, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3))) * (2.0 if x.shape[0] == 2 else 1.0)

    monkeypatch.setattr(zoo.TinyNet, "forward", counting)
    recipe = Recipe(
        model=ModelOptions(backbone=tiny, weights="none", image_size=32),
        export=ExportSection(("onnx",), ("fp32",), batch="free"),
    )
    with pytest.raises(ExportError, match="cannot take any number of images"):
        pipeline.run(recipe.updated({"data": {"path": photos}}), tmp_path / "out")


@pytest.mark.parametrize("value", [8, "free"])
def test_a_recipe_keeps_it(value: Any, tmp_path: Path) -> None:
    recipe = Recipe().updated({"export": {"batch": value, "targets": ["onnx"]}})
    recipe.save(tmp_path / "r.toml")
    assert read_recipe(tmp_path / "r.toml") == recipe
    assert recipe.export.batch == value
    assert recipe.export.images_at_once == (FREE if value == "free" else 8)
    assert "batch" not in Recipe().to_toml().split("[export]")[1].split("[verify]")[0]
    assert Recipe().updated({"export": {"batch": "16"}}).export.batch == 16
    with pytest.raises(UsageError, match="batch = True makes no sense"):
        Recipe().updated({"export": {"batch": True}})


def test_python_exports_it(tiny: str, photos: Path, tmp_path: Path) -> None:
    checkpoint = api.finetune(
        photos,
        backbone=tiny,
        weights="none",
        image_size=32,
        strategy="full",
        epochs=1,
    )
    out = api.export(
        checkpoint, calibration=photos, out=tmp_path / "b", targets=["onnx"], precisions=["fp32"], batch="free"
    )
    assert open_bundle(out).manifest.input.shape[0] == FREE
    with pytest.raises(UsageError, match="tflite files take a fixed number"):
        api.export(checkpoint, calibration=photos, out=tmp_path / "c", batch="free")
