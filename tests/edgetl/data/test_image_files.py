"""One judge of what is readable, duplicates, and photos of phones."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl.data.image_files as photos_module
from edgetl.data.dataset import DataOptions, load_dataset, load_labelled, load_photos, pick_readable
from edgetl.data.duplicates import Known, find_duplicates
from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.pipeline import export_checkpoint, run, verify_bundle
from edgetl.recipe import ExportSection, Recipe
from edgetl.verify.report import Report
from edgetl_runtime.errors import DataError, ImageError
from edgetl_runtime.manifest import Label, Preprocess
from edgetl_runtime.preprocess import load_image, preprocess

MakePhotos = Callable[[Path, Mapping[str, int]], Path]
SPEC = Preprocess(32, (32, 32))
EACH = {"rose": 8, "tulip": 8}


def float_tiff(path: Path) -> None:
    Image.fromarray(np.full((40, 50), 0.5, np.float32)).save(path.with_suffix(".tif"))


def long_and_thin(path: Path) -> None:
    Image.new("L", (1, 60_000)).save(path.with_suffix(".png"))


def thin_jpeg(path: Path) -> None:
    Image.new("L", (60_000, 1)).save(path.with_suffix(".jpg"))


def int_tiff(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 70_000, np.int32)).save(path.with_suffix(".tif"))


def wrong_array(path: Path) -> None:
    path.with_suffix(".jpg").write_bytes(b"\x93NUMPY\x01\x00" + b"x" * 90)


def a_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".png"))


def a_device(path: Path) -> None:
    path.with_suffix(".png").symlink_to("/dev/zero")


def a_lost_link(path: Path) -> None:
    path.with_suffix(".png").symlink_to(path.with_name("nowhere.png"))


BAD = [float_tiff, long_and_thin, thin_jpeg, int_tiff, wrong_array, a_pipe, a_device, a_lost_link]
TALL = Preprocess(2000, (224, 224))
"""A 1 x 60,000 image becomes too large for it."""


@pytest.mark.parametrize("make", BAD)
def test_what_preprocessing_refuses_is_unreadable(
    make: Callable[[Path], None], tmp_path: Path, make_photos: MakePhotos
) -> None:
    make_photos(tmp_path, EACH)
    make(tmp_path / "rose" / "bad")
    (bad,) = (tmp_path / "rose").glob("bad.*")
    if make is not a_pipe and make is not a_device:
        with pytest.raises(ImageError):
            preprocess(bad, TALL)
    with pytest.raises(DataError, match="1 image in"):
        load_dataset(tmp_path, spec=TALL)
    data = load_dataset(tmp_path, DataOptions(skip_bad=True), spec=TALL)
    assert [item.path for item in data.bad] == [bad]
    assert any("1 unreadable image was left out: bad" in note for note in data.notes)
    for sample in data.train + data.val:
        preprocess(sample.source, SPEC)  # type: ignore[arg-type]
    labels = [Label("rose", "rose"), Label("tulip", "tulip")]
    assert len(load_labelled(tmp_path, labels, spec=TALL, skip_bad=True)[0]) == 16


def test_calibration_takes_others_instead_of_unreadable_photos(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path, EACH)
    for n in range(8):
        float_tiff(tmp_path / "rose" / f"a{n}")
    photos = load_photos(tmp_path)
    with pytest.raises(DataError, match="cannot be read") as caught:
        pick_readable(photos, 20, SPEC, tmp_path)
    assert "--skip-bad" in str(caught.value)
    told: list[str] = []
    picked = pick_readable(photos, 16, SPEC, tmp_path, skip_bad=True, tell=told.append)
    assert len(picked) == 16
    assert [line.partition(":")[0] for line in told] == ["8 unreadable images were left out"]
    for n in range(8):
        (tmp_path / "rose" / f"00{n}.jpg").unlink()
    (tmp_path / "tulip").rename(tmp_path.parent / f"{tmp_path.name}-tulip")
    with pytest.raises(DataError, match="none of the 8 images"):
        pick_readable(load_photos(tmp_path), 16, SPEC, tmp_path, skip_bad=True)


@pytest.mark.slow
def test_export_skips_unreadable_photos(tmp_path: Path, make_photos: MakePhotos, tiny: str) -> None:
    data = make_photos(tmp_path / "data", EACH)
    float_tiff(data / "rose" / "bad")
    spec, normalize = preset(tiny, 32)
    labels = (Label("rose", "rose"), Label("tulip", "tulip"))
    about: dict[str, Any] = {"preprocess": spec, "normalize": normalize}
    checkpoint = Checkpoint.of(build(tiny, 2), backbone=tiny, labels=labels, **about)
    options = ExportSection(targets=("onnx",), precisions=("fp32",))
    with pytest.raises(DataError, match=r"bad\.tif"):
        export_checkpoint(checkpoint, data, tmp_path / "a.edgetl", options)
    assert not (tmp_path / "a.edgetl").exists()
    told: list[str] = []
    export_checkpoint(checkpoint, data, tmp_path / "a.edgetl", options, skip_bad=True, tell=told.append)
    assert (tmp_path / "a.edgetl" / "manifest.json").is_file()
    assert [line for line in told if "bad.tif" in line] == ["1 unreadable image was left out: bad.tif"]


def test_the_same_content_in_two_splits_or_under_two_labels(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "train", EACH)
    make_photos(tmp_path / "val", {"rose": 1, "tulip": 1})
    make_photos(tmp_path / "test", {"rose": 1, "tulip": 1})
    for split in ("val", "test"):
        for label in EACH:
            Image.new("RGB", (9, 9), "red" if label == "rose" else "blue").save(tmp_path / split / label / "000.jpg")
    same = (tmp_path / "train" / "rose" / "003.jpg").read_bytes()
    (tmp_path / "val" / "rose" / "copy.jpg").write_bytes(same)
    (tmp_path / "train" / "tulip" / "other.jpg").write_bytes(same)
    (tmp_path / "train" / "rose" / "again.jpg").write_bytes(same)  # no fault by itself
    notes = load_dataset(tmp_path).notes
    assert [note.partition(",")[0] for note in notes] == [
        "warning: 1 image of val are in train too",
        "warning: 2 images of test are in val too",
        "warning: the same content under two labels",
    ]
    assert "val/rose/copy.jpg = train/rose/003.jpg" in notes[0] or "train/rose/again.jpg" in notes[0]
    assert "train/tulip/other.jpg (tulip)" in notes[2]
    clean = make_photos(tmp_path / "clean", EACH)
    assert load_dataset(clean).notes == ()
    (clean / "rose" / "copy.jpg").write_bytes((clean / "tulip" / "000.jpg").read_bytes())
    told: list[str] = []
    load_labelled(clean, [Label("rose", "rose"), Label("tulip", "tulip")], tell=told.append)
    assert "under two labels, 1 image" in told[0]


def test_duplicates_that_a_split_by_chance_makes_are_seen(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path, EACH)
    for n in range(8):
        (tmp_path / "rose" / f"copy{n}.jpg").write_bytes((tmp_path / "rose" / f"00{n}.jpg").read_bytes())
    assert any("of val are in train too" in note for note in load_dataset(tmp_path).notes)


def test_duplicates_are_counted_once_for_each_pair_of_splits() -> None:
    images = [
        Known("x", split, "a", f"{split}{i}") for split, n in (("train", 2), ("val", 3), ("test", 1)) for i in range(n)
    ]
    found = find_duplicates([*images, Known("y", "val", "a", "alone"), Known("x", "test", "b", "odd")])
    assert {pair: len(twins) for pair, twins in found.leaks.items()} == {
        ("val", "train"): 3,
        ("test", "train"): 2,
        ("test", "val"): 2,
    }
    assert [(one.name, other.name) for one, other in found.two_labels] == [("odd", "train0")]


@pytest.mark.slow
def test_a_leak_is_in_the_checkpoint_and_in_every_report(tmp_path: Path, make_photos: MakePhotos, tiny: str) -> None:
    data = make_photos(tmp_path / "data", {"train/rose": 6, "train/tulip": 6, "val/rose": 1, "val/tulip": 1})
    (data / "val" / "rose" / "copy.jpg").write_bytes((data / "train" / "rose" / "000.jpg").read_bytes())
    (data / "train" / "rose" / "phone.HEIC").write_bytes(b"x")
    recipe = Recipe().updated(
        {
            "data": {"path": data},
            "model": {"backbone": tiny, "weights": "none", "image_size": 32},
            "train": {"strategy": "full", "epochs": 1},
            "export": {"targets": ["onnx"], "precisions": ["fp32"]},
        }
    )
    outcome = run(recipe, tmp_path / "a.edgetl")
    assert any("of val are in train too" in text for text in outcome.report.about_photos)
    assert any("left out: 1 .heic" in text for text in outcome.report.about_photos)
    assert not any("in train too" in note for note in outcome.notes)  # the report shows it
    training = outcome.report.provenance["training"]["data"]
    assert training["left_out"] == {".heic": 1}
    assert "in train too" in (tmp_path / "a.edgetl" / "report.html").read_text(encoding="utf-8")
    # Whoever verifies the bundle later, on other photos, sees it too.
    other = make_photos(tmp_path / "other", {"rose": 2, "tulip": 2})
    again = verify_bundle(tmp_path / "a.edgetl", other).report
    assert any("of the training: warning: " in text and "in train too" in text for text in again.about_photos)
    assert Report.from_json(again.to_json(), where="here") == again


HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + b"x" * 60


def test_photos_of_phones_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.jpg"):
        (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(ImageError, match="HEIC photo") as caught:
            load_image(tmp_path / name)
        assert "pip install pillow-heif" in str(caught.value.fix)
    with pytest.raises(ImageError, match="HEIC photo"):
        load_image(HEIC)


def test_photos_of_phones_are_read_where_the_package_is(
    tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the package, which registers a reader with Pillow in the same way."""
    make_photos(tmp_path, EACH)
    (tmp_path / "rose" / "phone.HEIC").write_bytes(HEIC)
    plugin = types.ModuleType("pillow_heif")
    registered: list[bool] = []

    def opened(content: Any, name: str) -> Image.Image:
        image = Image.new("RGB", (40, 30), "red")
        image.format = "HEIF"
        return image

    def register() -> None:
        registered.append(True)
        Image.register_open("HEIF", opened, lambda head: head[4:12] == b"ftypheic")  # type: ignore[arg-type]

    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "pillow_heif" else find_spec(name))
    photos_module._suffixes.cache_clear()
    try:
        data = load_dataset(tmp_path)
        assert registered
        assert len(data.train + data.val) == 17
        assert data.notes == ()
    finally:
        photos_module._suffixes.cache_clear()
        Image.OPEN.pop("HEIF", None)
        Image.ID[:] = [kind for kind in Image.ID if kind != "HEIF"]


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pip install pillow-heif")
def test_a_real_photo_of_a_phone(tmp_path: Path) -> None:
    plugin = importlib.import_module("pillow_heif")
    pixels = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    plugin.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=95)
    read = np.asarray(load_image(tmp_path / "a.heic")).astype(int)
    assert np.abs(read - pixels).mean() < 6
