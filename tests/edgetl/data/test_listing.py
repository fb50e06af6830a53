"""What photos there are, by names alone, and how that is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgetl.data.dataset import load_dataset
from edgetl.data.listing import list_photos
from edgetl.data.options import DataOptions
from edgetl_runtime.errors import DataError, UsageError

MakePhotos = Callable[[Path, Mapping[str, int]], Path]
OPTIONS = DataOptions(min_per_class=1)


def test_without_a_split_it_says_what_is_held_out(make_photos: MakePhotos, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", {"red": 10, "blue": 20})
    for name in ("a.txt", "b.txt", "c.json"):
        (photos / "red" / name).write_text("")
    found = list_photos(photos, OPTIONS, channels=3)
    assert found.lines() == [
        f"{photos}: 30 photos, 2 labels",
        "  label  photos",
        "  blue       20",
        "  red        10",
        "  all        30",
        "  no validation photos there: 20% of each label are held out",
        "  left out: 2 .txt, 1 .json",
    ]
    assert found.split_sizes == (24, 6)
    held_out = load_dataset(photos, OPTIONS)
    assert (len(held_out.train), len(held_out.val)) == found.split_sizes


def test_splits_get_a_column_each(make_photos: MakePhotos, tmp_path: Path) -> None:
    for split, n in (("train", 8), ("val", 3), ("test", 2)):
        make_photos(tmp_path / "photos" / split, {"red": n, "blue": n + 1})
    found = list_photos(tmp_path / "photos", OPTIONS, channels=3)
    assert found.lines()[1:] == [
        "  label  train  val  test",
        "  blue       9    4     3",
        "  red        8    3     2",
        "  all       17    7     5",
    ]
    assert found.split_sizes == (17, 5)


def test_of_many_labels_the_ends_are_named_in_80_columns(make_photos: MakePhotos, tmp_path: Path) -> None:
    counts = {f"label number {n:02d} of many with names": n for n in range(1, 21)}
    lines = list_photos(make_photos(tmp_path / "p", counts), OPTIONS, channels=3).lines()
    assert len(lines) <= 8
    assert any(line.startswith("  fewest to train on: label number 01") for line in lines)
    assert any(line.startswith("  most to train on: label number 20") for line in lines)


def test_no_photo_is_opened(make_photos: MakePhotos, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", {"red": 10, "blue": 20})
    (photos / "red" / "000.jpg").write_text("no photo")
    assert list_photos(photos, OPTIONS, channels=3).photos == 30
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(photos, OPTIONS)


def test_what_cannot_be_trained_on_is_found(make_photos: MakePhotos, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_photos(tmp_path / "misspelt", OPTIONS, channels=3)
    photos = make_photos(tmp_path / "photos", {"red": 3, "blue": 20})
    with pytest.raises(DataError, match=r"too few training images of: red \(3\)"):
        list_photos(photos, DataOptions(), channels=3)
    with pytest.raises(UsageError, match="val_fraction"):
        list_photos(photos, DataOptions(val_fraction=1.5), channels=3)


def test_photos_with_annotations_beside_them_are_of_another_task(make_photos: MakePhotos, tmp_path: Path) -> None:
    """As YOLO, COCO and VOC have them: a newcomer forgot to say the task."""
    photos = make_photos(tmp_path / "photos", {"images": 6})
    (photos / "labels").mkdir()
    (photos / "labels/000.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match=r"(?s)too few training images of: labels.*--task detection"):
        list_photos(photos, OPTIONS, channels=3)
    (photos / "labels/000.txt").rename(photos / "a.json")
    (photos / "labels").rmdir()
    with pytest.raises(DataError, match=r"(?s)one label only.*--task detection"):
        list_photos(photos, OPTIONS, channels=3)
    for photo in (photos / "images").iterdir():
        photo.rename(photos / photo.name)
    (photos / "images").rmdir()
    with pytest.raises(DataError, match=r"(?s)no labelled images.*--task detection"):
        list_photos(photos, OPTIONS, channels=3)
    (photos / "a.json").unlink()
    with pytest.raises(DataError, match="no labelled images") as raised:
        list_photos(photos, OPTIONS, channels=3)
    assert "--task" not in str(raised.value)
