"""What is handed to a device: some variants of a bundle, whole, sealed, and without what only a workbench reads."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import edgetl_runtime
from edgetl import api
from edgetl.cli.main import main
from edgetl.pack import pack_bundle
from edgetl.tasks.task import Picture
from edgetl.verify.inspect import inspect_layers
from edgetl.verify.report import Report
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.cli import main as device_main
from edgetl_runtime.errors import BundleError, CheckpointError, EngineError, OutputError, UsageError
from edgetl_runtime.manifest import Label, Manifest, Packed
from edgetl_runtime.verification import read_verified
from tests.conftest import put_killer

Capture = pytest.CaptureFixture[str]
MakePhotos = Callable[[Path, Mapping[str, int]], Path]
LEFT = ("onnx.fp32", "openvino.fp32", "onnx.int8")
WORKBENCH = ("reference/", "report.html", "quantization.json", "export.log")


@pytest.fixture
def whole(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A bundle folder with all that an export leaves in one, besides a checkpoint that is none."""
    folder = Path(shutil.copytree(pristine_bundle, tmp_path / "whole.edgetl"))
    for name in ("reference/checkpoint.json", "report.html", "quantization.json", "export.log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def recorded(whole: Path, full_report: Report) -> Path:
    """The same with a report on its variants, pictures in it."""
    ids = [variant.id for variant in open_bundle(whole).manifest.variants]
    entries = [
        dataclasses.replace(entry, id=id_, files_sha256={})
        for entry, id_ in zip(full_report.variants, ids, strict=False)
    ]
    names = dict(zip((entry.id for entry in full_report.variants), ids, strict=False))
    checks = [
        dataclasses.replace(check, variant=names[check.variant])
        for check in full_report.verdict.checks
        if check.variant in names
    ]
    report = dataclasses.replace(
        full_report,
        variants=tuple(entries),
        verdict=dataclasses.replace(full_report.verdict, checks=tuple(checks)),
        twins=(),
        baseline=None,
        pictures=(Picture("worst", "data:image/png;base64,AAAA", "it"),),
    )
    (whole / "report.json").write_text(report.to_json())
    return whole


def test_a_zip_has_the_variant_and_nothing_of_the_workbench(whole: Path, tmp_path: Path, red_photo: bytes) -> None:
    out = tmp_path / "pi.edgetl"
    packed = pack_bundle(whole, out, variants=["tflite.fp32"])
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
    assert sorted(name for name in names if not name.startswith("golden/")) == [
        "labels.txt", "manifest.json", "tflite/model.fp32.tflite",
    ]  # fmt: skip
    assert packed.bytes == out.stat().st_size
    assert packed.left_out == Packed(LEFT, WORKBENCH)
    opened = open_bundle(out)
    assert json.loads(opened.read("manifest.json"))["sealed"] is True
    opened.check()
    assert edgetl_runtime.self_test(opened).passed
    with edgetl_runtime.load(out) as classifier:
        assert classifier.predict(red_photo).top.name == "Red"


def test_another_ending_is_a_folder(whole: Path, tmp_path: Path) -> None:
    pack_bundle(whole, tmp_path / "pi", variants=["onnx.int8"])
    assert sorted(entry.name for entry in (tmp_path / "pi").iterdir()) == [
        "golden", "labels.txt", "manifest.json", "onnx",
    ]  # fmt: skip
    open_bundle(tmp_path / "pi").check()


def test_the_same_bundle_becomes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        pack_bundle(whole, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_few_golden_samples_are_enough_for_a_quick_test(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "few.zip"
    assert main(["pack", str(whole), "--variants", "tflite.fp32", "--golden", "3", "--out", str(out)]) == 0
    assert "3 golden samples, for the self-test: " in capsys.readouterr().out
    opened = open_bundle(out)
    opened.check()
    golden, before = opened.golden(), open_bundle(whole).golden()
    assert golden is not None
    assert before is not None
    assert golden.images == before.images[:3]
    np.testing.assert_array_equal(golden.logits, before.logits[:3])
    result = edgetl_runtime.self_test(opened)
    assert (result.passed, result.golden) == (True, 3)
    assert not opened.has("golden/03.png")
    more = pack_bundle(whole, tmp_path / "more.zip", golden=1000).manifest.golden
    assert more == open_bundle(whole).manifest.golden
    with pytest.raises(UsageError, match="0 golden samples test nothing"):
        pack_bundle(whole, tmp_path / "none.zip", golden=0)


def test_features_are_cut_too(colours_bundle: Callable[..., Path], tmp_path: Path) -> None:
    pack_bundle(colours_bundle(), tmp_path / "few.zip", golden=2)
    golden = open_bundle(tmp_path / "few.zip").golden()
    assert golden is not None
    assert golden.features["pooled"].shape == (2, 3)


def test_a_packed_bundle_is_packed_again(whole: Path, tmp_path: Path) -> None:
    pack_bundle(whole, tmp_path / "once.zip", variants=["tflite.fp32", "onnx.int8"])
    again = pack_bundle(tmp_path / "once.zip", tmp_path / "twice.zip", variants=["onnx.int8"])
    assert [variant.id for variant in again.manifest.variants] == ["onnx.int8"]
    assert again.left_out == Packed(("onnx.fp32", "openvino.fp32", "tflite.fp32"), WORKBENCH)


def test_a_single_model_file_becomes_a_bundle(whole: Path, tmp_path: Path) -> None:
    pack_bundle(whole / "openvino/model.fp32.xml", tmp_path / "one.edgetl")
    opened = open_bundle(tmp_path / "one.edgetl")
    opened.check()
    assert opened.read("labels.txt") == b"Red\nGreen\nBlue\nGrey\n"
    assert edgetl_runtime.self_test(opened).passed


def test_what_was_left_out_is_told_from_what_is_missing(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "pi"
    pack_bundle(whole, out, variants=["tflite.fp32"])
    with pytest.raises(BundleError, match=r"onnx.fp32 was left out of bundle 'colours' when it was packed"):
        edgetl_runtime.load(out, variant="onnx.fp32")
    with pytest.raises(BundleError, match=r"has no variant 'onnx.fp64'"):
        edgetl_runtime.load(out, variant="onnx.fp64")
    with pytest.raises(EngineError, match="no variant for engine 'onnxruntime'; left out when it was packed: onnx"):
        edgetl_runtime.load(out, engine="onnx")
    (out / "tflite/model.fp32.tflite").unlink()
    with pytest.raises(BundleError, match=r"tflite/model.fp32.tflite is missing"):
        edgetl_runtime.load(out)
    assert device_main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "runs here" not in said
    assert "tflite/model.fp32.tflite is missing" in said


def test_what_needs_the_checkpoint_says_that_it_was_left_out(
    whole: Path, tmp_path: Path, make_photos: MakePhotos
) -> None:
    out = tmp_path / "pi.edgetl"
    pack_bundle(whole, out)
    photos = make_photos(tmp_path / "photos", {"red": 3, "blue": 3})
    with pytest.raises(CheckpointError, match=r"was packed for a device: the checkpoint .* left out") as verifying:
        api.verify(out, photos)
    assert "--reference" in str(verifying.value)
    with pytest.raises(CheckpointError, match=r"was packed for a device: the checkpoint .* left out"):
        inspect_layers(out)


def test_the_report_says_what_it_said_of_the_variants_that_stay(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "pi.edgetl"
    before = read_verified(open_bundle(recorded))
    id_ = open_bundle(recorded).manifest.variants[1].id
    pack_bundle(recorded, out, variants=[id_])
    opened = open_bundle(out)
    assert read_verified(opened) == {id_: before[id_]}
    text = opened.read("report.json").decode()
    assert "data:image" not in text
    assert "data:image" in (recorded / "report.json").read_text()
    assert {check.variant for check in Report.from_json(text, where="it").verdict.checks} <= {id_}


def test_a_report_on_none_of_them_stays_behind(recorded: Path, tmp_path: Path) -> None:
    raw = json.loads((recorded / "report.json").read_text())
    raw["variants"] = [entry for entry in raw["variants"] if entry["id"] == "onnx.fp32"]
    (recorded / "report.json").write_text(json.dumps(raw))
    pack_bundle(recorded, tmp_path / "pi.edgetl", variants=["onnx.int8"])
    assert not open_bundle(tmp_path / "pi.edgetl").has("report.json")


def test_a_damaged_file_is_not_packed(whole: Path, tmp_path: Path) -> None:
    path = whole / "golden/00.png"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"golden/00.png .* is not the file that was exported"):
        pack_bundle(whole, tmp_path / "pi.edgetl")
    assert not (tmp_path / "pi.edgetl").exists()


def test_a_label_with_a_line_break_stays_one_line(whole: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_json((whole / "manifest.json").read_bytes(), where="it")
    labels = (Label("red", "Red\nand more"), *manifest.labels[1:])
    (whole / "manifest.json").write_text(dataclasses.replace(manifest, labels=labels).to_json())
    pack_bundle(whole, tmp_path / "pi.zip")
    assert open_bundle(tmp_path / "pi.zip").read("labels.txt") == rb"Red\nand more" + b"\nGreen\nBlue\nGrey\n"


@pytest.mark.parametrize(
    ("out", "error", "what"),
    [
        ("whole.edgetl", OutputError, "is the bundle that is packed"),
        ("there.edgetl", OutputError, "exists already"),
        ("pi.tflite", UsageError, "called like a model file"),
        ("gone/pi.edgetl", OutputError, "does not exist"),
    ],
)
def test_outputs_that_are_refused(whole: Path, tmp_path: Path, out: str, error: type[Exception], what: str) -> None:
    (tmp_path / "there.edgetl").write_text("mine")
    with pytest.raises(error, match=what):
        pack_bundle(whole, tmp_path / out)
    assert (tmp_path / "there.edgetl").read_text() == "mine"


def test_force_replaces_bundles_alone(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.edgetl").write_text("mine")
    with pytest.raises(OutputError, match="is no bundle and is not replaced"):
        pack_bundle(whole, tmp_path / "mine.edgetl", force=True)
    with pytest.raises(OutputError, match="is the bundle that is packed"):
        pack_bundle(whole, tmp_path / "whole.edgetl", force=True)
    pack_bundle(whole, tmp_path / "pi.edgetl")
    pack_bundle(whole, tmp_path / "pi.edgetl", variants=["onnx.int8"], force=True)
    assert len(open_bundle(tmp_path / "pi.edgetl").manifest.variants) == 1


def test_no_variants_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no variants to pack"):
        pack_bundle(whole, tmp_path / "pi.edgetl", variants=[])


def test_a_killing_file_is_packed_as_it_is(whole: Path, tmp_path: Path) -> None:
    """Packing opens no engine: the bundle's own checks say what the variant is."""
    put_killer(whole)
    pack_bundle(whole, tmp_path / "pi.edgetl", variants=["tflite.fp32"])


def test_the_command_says_what_it_wrote_and_what_comes_next(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "pi.edgetl"
    assert main(["pack", str(whole), "--variants", "tflite.fp32", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "tflite/model.fp32.tflite" in captured.out
    assert f"{out}: " in captured.out
    assert "left out: onnx.fp32, openvino.fp32, onnx.int8, reference/" in captured.err
    assert "edgetl-run self-test pi.edgetl" in captured.err
    assert main(["pack", str(whole), "--variants", "tflite.fp64", "--out", str(out), "--force"]) == 2
    assert "choose one of: onnx.fp32" in capsys.readouterr().err


def test_python_packs_too(whole: Path, tmp_path: Path) -> None:
    assert api.pack(whole, out=tmp_path / "pi.edgetl", variants=["onnx.int8"]) == tmp_path / "pi.edgetl"
    assert [variant.id for variant in open_bundle(tmp_path / "pi.edgetl").manifest.variants] == ["onnx.int8"]
