"""The stages in their order, on small input: what is left on disk, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from edgetl import api
from edgetl.data.dataset import load_dataset
from edgetl.models.backbones import build
from edgetl.models.checkpoint import open_checkpoint
from edgetl.open_to_export import labelled_by_folders
from edgetl.pipeline import run, train_to, verify_bundle
from edgetl.recipe import Recipe
from edgetl_export.targets import onnx_file
from edgetl_runtime import load, open_bundle, preprocess, self_test
from edgetl_runtime.cli import main as device_main
from edgetl_runtime.errors import CheckpointError, DataError, OutputError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny")]

SMALL = Recipe().updated(
    {
        "model": {"backbone": "tinynet", "weights": "none", "image_size": 32},
        "train": {"strategy": "full", "epochs": 1, "batch_size": 8, "augment": "none"},
        "export": {"targets": ["onnx"], "precisions": ["fp32", "fp16"]},
    }
)


@pytest.fixture
def photos(make_photos: Callable[..., Path], tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"red": 12, "green": 12, "blue": 12})


def with_photos(photos: Path) -> Recipe:
    return SMALL.updated({"data": {"path": photos}})


def test_run_leaves_a_bundle_with_its_report(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "colours.edgetl"
    outcome = run(with_photos(photos), out)
    assert sorted(entry.name for entry in out.iterdir()) == [
        "export.log", "golden", "labels.txt", "manifest.json", "onnx", "reference", "report.html", "report.json",
    ]  # fmt: skip
    assert [entry.name for entry in out.parent.iterdir()] == ["colours.edgetl"]
    report = json.loads((out / "report.json").read_text())
    assert report["schema"] == 1
    assert report["bundle"] == "colours.edgetl"
    assert {"train", "export", "verify"} <= set(report["seconds"])
    assert [variant["id"] for variant in report["variants"]] == ["onnx.fp32", "onnx.fp16"]
    assert report["variants"][0]["parity"]["top1_agreement"] == 1.0
    latency = report["variants"][0]["latency"]
    assert 0 < latency["p50_ms"] <= latency["p95_ms"]
    assert any("validation split" in note for note in outcome.notes)
    original = report["original"]
    assert sum(scores["n"] for scores in original["per_label"].values()) == report["data"]["n"]
    assert original["worst"][0]["thumbnail"].startswith("data:image/jpeg")
    # The history stays with the bundle: another verification shows it again.
    again = verify_bundle(out, load_dataset(photos, SMALL.data).held_out[0])
    assert [*again.report.history] == report["history"] != []
    opened = open_bundle(out)
    opened.check()
    assert opened.manifest.golden is not None
    assert opened.manifest.provenance["data_fingerprint"]
    with load(out) as classifier:
        prediction = classifier.predict(next((photos / "red").iterdir()), top=3)
    assert {score.id for score in prediction.scores} == {"red", "green", "blue"}


def test_the_python_api_is_three_calls(photos: Path, tmp_path: Path) -> None:
    checkpoint = api.finetune(photos, recipe=SMALL)
    bundle = api.export(checkpoint, calibration=photos, out=tmp_path / "a.edgetl", options=SMALL.export)
    report = api.verify(bundle, photos)
    assert report.variant("onnx.fp32").parity.top1_agreement == 1.0
    assert not (bundle / "report.html").exists()
    api.verify(bundle, photos, record=True)
    assert (bundle / "report.html").is_file()
    (bundle / "reference" / "checkpoint.json").unlink()
    (bundle / "reference" / "model.safetensors").unlink()
    (bundle / "reference").rmdir()
    with pytest.raises(CheckpointError, match="--reference CHECKPOINT"):
        api.verify(bundle, photos)
    assert api.verify(bundle, photos, reference=checkpoint).variant("onnx.fp32").error is None


def test_kept_answers_stand_in_for_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    recipe = with_photos(photos).updated({"verify": {"keep_reference": True}})
    outcome = run(recipe, tmp_path / "a.edgetl")
    open_bundle(outcome.bundle).check()
    for name in ("checkpoint.json", "model.safetensors"):
        (outcome.bundle / "reference" / name).unlink()
    # The photos that the run held out are some of these; the others have no answers.
    with pytest.raises(DataError, match="whose answers"):
        api.verify(outcome.bundle, photos)
    held_out = load_dataset(photos, recipe.data).held_out[0]
    again = verify_bundle(outcome.bundle, held_out)
    assert again.report.data == outcome.report.data
    assert again.report.variant("onnx.fp16").parity == outcome.report.variant("onnx.fp16").parity


def test_a_checkpoint_folder_has_recipe_and_history(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    train_to(with_photos(photos), out)
    assert sorted(entry.name for entry in out.iterdir()) == [
        "checkpoint.json", "history.json", "history.png", "model.safetensors", "recipe.toml",
    ]  # fmt: skip
    with pytest.raises(OutputError, match="exists"):
        train_to(with_photos(photos), out)
    # The history goes with the checkpoint into its bundle, and is in the report of a verification.
    bundle = api.export(out, calibration=photos, out=tmp_path / "a.edgetl", options=SMALL.export)
    judged = verify_bundle(bundle, load_dataset(photos, SMALL.data).held_out[0])
    assert [*judged.report.history] == json.loads((out / "history.json").read_text())["epochs"] != []


def test_what_exists_is_only_replaced_when_forced_and_only_after_success(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "colours.edgetl"
    run(with_photos(photos), out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        run(with_photos(photos), out)

    def interrupt(self: object, workshop: object, precision: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(onnx_file.OnnxTarget, "write", interrupt)
        with pytest.raises(KeyboardInterrupt, match="with --resume goes on"):
            run(with_photos(photos), out, force=True)
    assert (out / "manifest.json").read_bytes() == before
    # What was trained is not lost.
    names = ["colours.edgetl", "colours.edgetl.training", "photos"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    told: list[str] = []
    run(with_photos(photos), out, force=True, resume=True, tell=told.append)
    assert not any(line.startswith("epoch") for line in told)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["colours.edgetl", "photos"]
    assert (out / "manifest.json").read_bytes() != before


def test_a_variant_that_could_not_be_written_fails_the_verdict(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_file.OnnxTarget.write

    def fail_fp16(self: onnx_file.OnnxTarget, captured: object, precision: str) -> object:
        if precision == "fp16":
            raise RuntimeError("no such kernel")
        return right(self, captured, precision)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_file.OnnxTarget, "write", fail_fp16)
    outcome = run(with_photos(photos), tmp_path / "a.edgetl")
    assert not outcome.report.verdict.passed
    assert "no such kernel" in (outcome.report.variant("onnx.fp16").error or "")
    assert outcome.report.variant("onnx.fp32").error is None


def test_plain_weights_take_their_labels_from_the_folders_only_when_they_are_as_many(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    model = build("mobilenet_v3_small", 2)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    plain = open_checkpoint(tmp_path / "weights.safetensors", backbone="mobilenet_v3_small", image_size=32)
    two, note = labelled_by_folders(plain, make_photos(tmp_path / "two", {"b": 1, "a": 1}))
    assert [label.id for label in two.labels] == ["a", "b"]
    assert "a, b" in note
    three, note = labelled_by_folders(plain, make_photos(tmp_path / "three", {"a": 1, "b": 1, "c": 1}))
    assert [label.id for label in three.labels] == ["0", "1"]
    assert "--labels FILE" in note


def test_a_layer_that_the_backbone_lacks_is_found_before_training(photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "000.jpg").write_text("no photo")
    recipe = Recipe().updated(
        {
            "data": {"path": photos},
            "model": {"image_size": 32, "weights": "none"},
            "train": {"strategy": "full"},
            "export": {"features": ["pooled", "features.19"]},
        }
    )
    with pytest.raises(UsageError, match=r"no layer 'features\.19'"):
        run(recipe, tmp_path / "x.edgetl")
    # With names that are right it goes on and opens the photos.
    with pytest.raises(DataError, match="cannot be read"):
        run(recipe.updated({"export": {"features": ["pooled", "features.18"]}}), tmp_path / "x.edgetl")


def test_the_way_of_decoding_goes_from_training_to_the_device(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in photos.rglob("*.jpg"):  # 36 pixels are needed, 144 and more are reduced
        with Image.open(path) as image:
            image.resize((480, 400), Image.Resampling.BICUBIC).save(path)
    photo = next((photos / "red").iterdir())
    recipe = with_photos(photos).updated({"model": {"decode": "scaled"}})
    out = tmp_path / "scaled.edgetl"
    outcome = run(recipe, out)
    spec = open_bundle(out).manifest.preprocess
    assert spec.decode == "scaled"
    assert outcome.report.contract["preprocess"]["decode"] == "scaled"
    assert json.loads((out / "reference" / "checkpoint.json").read_text())["preprocess"]["decode"] == "scaled"
    with load(out) as classifier:
        expected = classifier.interpret(classifier.logits(preprocess(photo, spec)))
        assert classifier.predict(photo).scores == expected.scores
    assert (preprocess(photo, spec) != preprocess(photo, replace(spec, decode="exact"))).any()
    assert self_test(open_bundle(out)).pixels == 0
    assert device_main(["info", str(out)]) == 0
    assert "decode scaled" in capsys.readouterr().out
    # A checkpoint can be taken to devices in the other way; what says nothing of it decodes in full, as ever.
    back = open_checkpoint(out / "reference", decode="exact")
    bundle = api.export(back, calibration=photos, out=tmp_path / "exact.edgetl", options=SMALL.export)
    assert "decode" not in (bundle / "manifest.json").read_text() + (bundle / "reference/checkpoint.json").read_text()
    assert open_bundle(bundle).manifest.preprocess == replace(spec, decode="exact")
    with pytest.raises(UsageError, match="decode 'half'"):
        open_checkpoint(out / "reference", decode="half")
