"""CSV files as people have them: every line is an image, or an error says which line is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from safetensors.torch import save_file

from edgetl.data.csv_table import read_table
from edgetl.data.dataset import DataOptions, load_dataset, load_labelled, load_photos
from edgetl.models.backbones import build
from edgetl.models.checkpoint import open_checkpoint
from edgetl.open_to_export import labelled_by_folders
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Label

MakePhotos = Callable[[Path, Mapping[str, int]], Path]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    return make_photos(tmp_path, {"rose": 6, "tulip": 6})


def table(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return folder / "t.csv"


def rows(*, mark: str = "/", splits: tuple[str, ...] = ()) -> str:
    names = [(f"{label}{mark}{i:03d}.jpg", label) for label in ("rose", "tulip") for i in range(6)]
    head = "path,label,split" if splits else "path,label"
    ends = [f",{splits[i % len(splits)]}" if splits else "" for i in range(12)]
    return "\n".join([head, *(f"{path},{label}{end}" for (path, label), end in zip(names, ends, strict=True))])


def test_a_table_serves_for_calibration_and_labels(photos: Path) -> None:
    file = table(photos, rows())
    assert len(load_photos(file)) == 12
    assert {sample.label for sample in load_photos(file)} == {0, 1}
    file = table(photos, rows(splits=("Training", "TESTING")))
    assert len(load_photos(file)) == 6
    assert load_labelled(file, [Label("rose", "rose"), Label("tulip", "tulip")])[1] == "test"
    save_file(build("mobilenet_v3_small", 2).state_dict(), photos / "w.safetensors")
    plain = open_checkpoint(photos / "w.safetensors", backbone="mobilenet_v3_small", image_size=32)
    assert [label.id for label in labelled_by_folders(plain, file)[0].labels] == ["rose", "tulip"]


@pytest.mark.parametrize("splits", [("train", "validation"), ("Train", "DEV"), ("training", "eval")])
def test_the_split_column_knows_the_words(splits: tuple[str, ...], photos: Path) -> None:
    data = load_dataset(table(photos, rows(splits=splits)), DataOptions(min_per_class=3))
    assert (len(data.train), len(data.val)) == (6, 6)


def test_backslashes_part_folders(photos: Path) -> None:
    assert len(load_photos(table(photos, rows(mark="\\")))) == 12
    (photos / "rose\\000.jpg").write_bytes(b"a name with a backslash in it")
    (found,) = read_table(table(photos, "path,label\nrose\\000.jpg,x\n"))["all"].values()
    assert found == [photos / "rose\\000.jpg"]
    (photos / "rose\\000.jpg").unlink()
    with pytest.raises(DataError, match=r"line 3: .* stands in line 2 already"):
        read_table(table(photos, "path,label\nrose\\000.jpg,x\nrose/../rose/000.jpg,y\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('path,label\nrose/000.jpg,"rose\nrose/001.jpg,rose\n', "cannot read .* as CSV"),
        ('path,label\nrose/000.jpg,"rose\nrose/001.jpg,rose"\n', "line 3: a field goes over more than one line"),
        ('path,label\nrose/000.jpg,"rose\n"\n', "line 3: a field goes over more than one line"),
        ("path,label\nrose/000.jpg,rose, red\n", 'line 2: 3 fields, but the first line has 2[^"]*'),
        ("path,label,label\nrose/000.jpg,rose,red\n", "two columns 'label'"),
        ("path;label\nrose/000.jpg;rose\n", "no column 'path'"),
        ("path,label\n" + "x" * 256 + ".jpg,rose\n", "1 files that are not there"),
        ("path,label\n" + "x/" * 3000 + "a.jpg,rose\n", "1 files that are not there"),
        ("path,label\nrose/000.jpg/a.jpg,rose\n", "1 files that are not there"),
        ("path,label\n", "lists no images"),
        ("path,label,split\nrose/000.jpg,a,val\nrose/001.jpg,a,valid\n", "two names for the val split"),
        ("path,label,split\nrose/000.jpg,a,train\nrose/001.jpg,a,training\n", "two names for the train split"),
        ("path,label\nrose/000.jpg,a\0b\n", "a field goes over|as CSV"),
    ],
)
def test_what_would_lose_lines_is_refused(text: str, says: str, photos: Path) -> None:
    for read in (load_dataset, load_photos):
        with pytest.raises(DataError, match=says) as caught:
            read(table(photos, text))
        assert caught.value.fix


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_said(encoding: str, photos: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .* as CSV"):
        load_dataset(table(photos, "path,label\nrose/000.jpg,cr\u00e8me\n", encoding=encoding))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_pipes_are_no_tables_and_no_images(photos: Path) -> None:
    os.mkfifo(photos / "pipe.csv")
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(DataError):
        load_dataset(photos / "pipe.csv")
    with pytest.raises(DataError, match="not there"):
        load_dataset(table(photos, "path,label\npipe.jpg,rose\n"))
