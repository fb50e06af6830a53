"""Folders of splits and labels: every image is in a split, or counted as left out, or there is a `DataError`."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgetl.data.dataset import DataOptions, load_dataset, load_labelled, load_photos
from edgetl.data.split_words import SPLIT_WORDS, split_of
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Label

MakePhotos = Callable[[Path, Mapping[str, int]], Path]
EACH = {"rose": 6, "tulip": 6}
LABELS = (Label("rose", "rose"), Label("tulip", "tulip"))


def readings(path: Path) -> list[Callable[[], object]]:
    """Everything that reads labelled folders."""
    return [
        lambda: load_dataset(path),
        lambda: load_labelled(path, LABELS),
        lambda: load_photos(path),
        lambda: load_labelled(path, LABELS, training=True),
    ]


@pytest.mark.parametrize("write", [str, str.upper, str.title])
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("training", "validation", "testing"),
        ("train", "valid", "test"),
        ("train", "dev", "test"),
        ("train", "eval", ""),
    ],
)
def test_splits_are_called_by_usual_words(
    train: str, val: str, test: str, write: Callable[[str], str], tmp_path: Path, make_photos: MakePhotos
) -> None:
    for name in filter(None, (train, val, test)):
        make_photos(tmp_path / write(name), EACH)
    data = load_dataset(tmp_path)
    assert [label.id for label in data.labels] == ["rose", "tulip"]
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 12, 12 if test else 0]
    assert {sample.name.partition("/")[0] for sample in load_photos(tmp_path)} == {write(train)}
    assert load_labelled(tmp_path, LABELS)[1] == ("test" if test else "val")
    assert not data.left_out


def test_training_and_testing_alone(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "Training", EACH)
    make_photos(tmp_path / "Testing", EACH)
    data = load_dataset(tmp_path)
    assert {sample.name.partition("/")[0] for sample in data.train + data.val} == {"Training"}
    assert data.held_out == (data.test, "test")


def test_every_word_means_a_split() -> None:
    assert {split_of(f" {word.title()} ") for word in SPLIT_WORDS} == {"train", "val", "test"}
    assert split_of("trained") is split_of("") is split_of("all") is None


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train", "Training"), "two names for the train split"),
        (("train", "val", "validation"), "two names for the val split"),
        (("train", "dev", "eval"), "two names for the val split"),
        (("train", "Test", "test"), "two names for the test split"),
    ],
)
def test_two_folders_of_one_split(folders: tuple[str, ...], says: str, tmp_path: Path, make_photos: MakePhotos) -> None:
    for name in folders:
        make_photos(tmp_path / name, EACH)
    for read in readings(tmp_path):
        with pytest.raises(DataError, match=says) as caught:
            read()
        assert folders[-1] in caught.value.what
        assert "CSV" in str(caught.value.fix)


@pytest.mark.parametrize(
    "shape",
    [
        {"train": EACH, "val": EACH, ".": {"daisy": 3}},
        {".": {"car": 6, "bus": 6, "train": 6}},
        {"Test": EACH, ".": {"misc": 1}},
    ],
)
def test_folders_of_splits_beside_others(
    shape: Mapping[str, Mapping[str, int]], tmp_path: Path, make_photos: MakePhotos
) -> None:
    for name, counts in shape.items():
        make_photos(tmp_path / name, counts)
    for read in readings(tmp_path):
        with pytest.raises(DataError, match="beside others with images") as caught:
            read()
        assert "CSV" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("paths", "says", "fix"),
    [
        (("rose/train", "rose/val", "tulip/train", "tulip/val"), "rose/train, rose/val, tulip/train", "train/roses"),
        (("rose/Testing", "tulip/a"), "rose/Testing", "CSV"),
        (("rose/a/b/eval", "tulip/a"), "rose/a/b/eval", "CSV"),
        (("train/rose", "train/test"), "test", "CSV"),
        (("train/rose/val", "train/tulip"), "rose/val", "CSV"),
        (
            ("flowers/train/rose", "flowers/test/rose"),
            "flowers/test, flowers/train",
            "name the folder",
        ),
    ],
)
def test_splits_inside_of_labels(
    paths: tuple[str, ...], says: str, fix: str, tmp_path: Path, make_photos: MakePhotos
) -> None:
    for path in paths:
        folder = Path(path)
        make_photos(tmp_path / folder.parent, {folder.name: 6})
    for read in readings(tmp_path):
        with pytest.raises(DataError, match=says) as caught:
            read()
        assert fix in str(caught.value.fix)


def test_files_that_are_left_out_are_counted(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "train", EACH)
    make_photos(tmp_path / "val", EACH)
    make_photos(tmp_path / "docs", {"empty": 0})
    for name in (
        "train/rose/a.HEIC",
        "train/rose/b.heic",
        "val/tulip/phone",
        "docs/notes.txt",
        "readme.md",
        "train/x.csv",
    ):
        (tmp_path / name).write_bytes(b"x")
    for name in ("loose.jpg", "train/loose.jpg", "train/other.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "train" / "rose" / "000.jpg").read_bytes())
    data = load_dataset(tmp_path)
    counted = {".heic": 2, "without an ending": 1, ".txt": 1, ".md": 1, ".csv": 1}
    places = {"images outside of the split folders": 1, "images in no label folder": 2}
    assert data.left_out == counted | places
    (note,) = (note for note in data.notes if note.startswith("left out"))
    assert "2 .heic (to read them: pip install pillow-heif)" in note
    assert "1 without an ending" in note
    told: list[str] = []
    load_labelled(tmp_path, LABELS, tell=told.append)
    assert note in told
    load_photos(tmp_path, tell=(told := []).append)
    assert "2 .heic" in told[0]
    assert len(load_photos(tmp_path)) == 14  # loose ones of train are photos to calibrate on


def test_an_error_says_what_was_left_out(tmp_path: Path) -> None:
    for name in ("a/1.heic", "a/2.heic", "b/1.heic", "b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for read in (load_dataset, load_photos, lambda path: load_labelled(path, [Label("a", "a"), Label("b", "b")])):
        with pytest.raises(DataError, match=r"3 \.heic \(to read them: pip install pillow-heif\), 1 without an ending"):
            read(tmp_path)


def test_folders_inside_of_a_label_are_said(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path, {"rose": 6, "tulip/red": 3, "tulip/white": 3})
    data = load_dataset(tmp_path)
    assert len(data.train + data.val) == 12
    assert any("have its label: tulip (6)" in note for note in data.notes)


def test_val_from_elsewhere_says_what_is_not_used(tmp_path: Path, make_photos: MakePhotos) -> None:
    for name in ("a/train", "a/val", "b/Validation", "b/train"):
        make_photos(tmp_path / name, EACH)
    data = load_dataset(tmp_path / "a", DataOptions(val=tmp_path / "b"))
    assert {Path(sample.name).parent.parent.name for sample in data.val} == {"Validation"}
    assert any("validation split of" in note and "(12 images) is not used" in note for note in data.notes)
    assert any("without train" in note for note in data.notes)


def test_photos_of_several_splits_without_training(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "val", EACH)
    assert len(load_photos(tmp_path)) == 12
    make_photos(tmp_path / "test", EACH)
    with pytest.raises(DataError, match="test and val but no train"):
        load_photos(tmp_path)


def test_names_that_differ_in_normalisation_are_one_label(tmp_path: Path, make_photos: MakePhotos) -> None:
    composed, parted = (unicodedata.normalize(form, "cr\u00e8me") for form in ("NFC", "NFD"))
    make_photos(tmp_path / "a" / "train", {"rose": 6, composed: 6})
    make_photos(tmp_path / "a" / "val", {"rose": 2, parted: 2})
    data = load_dataset(tmp_path / "a")
    assert [label.id for label in data.labels] == [composed, "rose"]
    assert (len(data.train), len(data.val)) == (12, 4)
    # A model of an earlier edgetl may have the other spelling.
    for id_ in (composed, parted):
        assert len(load_labelled(tmp_path / "a", [Label("rose", "rose"), Label(id_, id_)])[0]) == 4
        assert len(load_labelled(tmp_path / "a", [Label("n1", "rose"), Label("n2", id_)])[0]) == 4
    make_photos(tmp_path / "b", {"rose": 6, composed: 6, parted: 6})
    data = load_dataset(tmp_path / "b")
    assert len(data.train + data.val) == 18
    assert any("normalisation" in note for note in data.notes)
    rows = [f"{label}/{i:03d}.jpg,{label}" for label in ("rose", composed, parted) for i in range(6)]
    (tmp_path / "b" / "t.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    assert len(load_dataset(tmp_path / "b" / "t.csv").labels) == 2


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path, EACH)
    closed = tmp_path / "rose" / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuses(path: str) -> object:
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(DataError, match=r"cannot read the folder .*closed: Permission denied"):
        load_dataset(tmp_path)


def test_too_long_a_path_is_no_trace() -> None:
    for path in (Path("x" * 300), Path("a\0b")):
        with pytest.raises(DataError):
            load_dataset(path)
