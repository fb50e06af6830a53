"""Hugging Face data sets on disk: images are read from them when needed, labels by their names."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import DataOptions, load_dataset, load_labelled, load_photos
from edgetl.data.huggingface import SavedImage
from edgetl_runtime import DataError, Label, MissingDependency, Preprocess, preprocess

SPEC = Preprocess(8, (8, 8))
NAMES = ["bus", "car", "van"]


def photo(level: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (level, 0, 255 - level)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def hugging() -> Any:
    """The library: optional for users, and one of the extras that tests run with."""
    return pytest.importorskip("datasets", reason='needs the optional library: pip install "edgetl[hf]"')


def rows(hugging: Any, start: int, n: int, *, label: Any = None, **columns: Any) -> Any:
    content: dict[str, Any] = {
        "picture": [{"bytes": photo(index), "path": None} for index in range(start, start + n)],
        "what": [index % 3 for index in range(n)],
        "size": [1.5] * n,
    } | columns
    features = {"picture": hugging.Image(), "what": label or hugging.ClassLabel(names=NAMES)}
    features |= {
        name: hugging.Value("string" if name == "label" else "float32") for name in content if name not in features
    }
    return hugging.Dataset.from_dict(content, features=hugging.Features(features))


def test_a_saved_set_is_a_data_set(hugging: Any, tmp_path: Path) -> None:
    rows(hugging, 0, 30).save_to_disk(str(tmp_path / "cars"))
    data = load_dataset(tmp_path / "cars")
    assert data.name == "cars"
    assert [label.id for label in data.labels] == NAMES
    assert (len(data.train), len(data.val)) == (24, 6)
    for sample in data.train:
        index = int(sample.name.removeprefix("cars/"))
        assert sample.label == index % 3
        np.testing.assert_array_equal(preprocess(sample.source, SPEC), preprocess(photo(index), SPEC))
    assert load_dataset(tmp_path / "cars").fingerprint == data.fingerprint
    assert len(load_photos(tmp_path / "cars")) == 30


def test_splits_are_those_of_the_set(hugging: Any, tmp_path: Path) -> None:
    parts = {"train": rows(hugging, 0, 15), "validation": rows(hugging, 20, 6), "test": rows(hugging, 30, 3)}
    hugging.DatasetDict(parts).save_to_disk(str(tmp_path / "a"))
    data = load_dataset(tmp_path / "a")
    assert [len(part) for part in (data.train, data.val, data.test)] == [15, 6, 3]
    found, split = load_labelled(tmp_path / "a", [Label(name, name) for name in NAMES])
    assert (split, [sample.name for sample in found]) == ("test", ["test/0", "test/1", "test/2"])
    assert len(load_photos(tmp_path / "a")) == 15
    twice = {"train": rows(hugging, 0, 15), "val": rows(hugging, 0, 6), "validation": rows(hugging, 9, 6)}
    hugging.DatasetDict(twice).save_to_disk(str(tmp_path / "c"))
    for read in (load_dataset, load_photos):
        with pytest.raises(DataError, match="two names for the val split: val and validation"):
            read(tmp_path / "c")
    hugging.DatasetDict({"train": rows(hugging, 0, 15), "extra": rows(hugging, 0, 3)}).save_to_disk(str(tmp_path / "b"))
    with pytest.raises(DataError, match="split 'extra'"):
        load_dataset(tmp_path / "b")


def test_labels_may_be_strings_and_images_files(hugging: Any, tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index}.png").write_bytes(photo(index))
    pictures = [{"bytes": None, "path": str(tmp_path / f"{index}.png")} for index in range(12)]
    made = rows(hugging, 0, 12, picture=pictures, label=hugging.Value("int64")).remove_columns("what")
    made = made.add_column("label", [["red", "blue"][index % 2] for index in range(12)])
    made.save_to_disk(str(tmp_path / "set"))
    data = load_dataset(tmp_path / "set")
    assert [label.id for label in data.labels] == ["blue", "red"]
    for sample in data.train:
        index = int(sample.name.removeprefix("set/"))
        assert sample.label == (index + 1) % 2
        np.testing.assert_array_equal(preprocess(sample.source, SPEC)[0, 0], [index, 0, 255 - index])


def test_what_cannot_be_used_is_said(hugging: Any, tmp_path: Path) -> None:
    unlabelled = rows(hugging, 0, 9, what=[0, 1, -1] * 3)
    unlabelled.save_to_disk(str(tmp_path / "some"))
    with pytest.raises(DataError, match=r"3 of 9 rows .* have no label"):
        load_dataset(tmp_path / "some")
    assert len(load_photos(tmp_path / "some")) == 9
    rows(hugging, 0, 9).remove_columns("picture").save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="0 image columns; its columns: what, size"):
        load_dataset(tmp_path / "none")
    rows(hugging, 0, 9).remove_columns("what").save_to_disk(str(tmp_path / "bare"))
    with pytest.raises(DataError, match="no label column"):
        load_dataset(tmp_path / "bare")
    damaged = [{"bytes": photo(index)[:45] if index == 4 else photo(index), "path": None} for index in range(15)]
    rows(hugging, 0, 15, picture=damaged).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(DataError, match="bad, row 4: "):
        load_dataset(tmp_path / "bad")
    data = load_dataset(tmp_path / "bad", DataOptions(skip_bad=True, min_per_class=4))
    assert [item.path.name for item in data.bad] == ["bad/4"]
    (tmp_path / "bad" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot read the data set"):
        load_dataset(tmp_path / "bad")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("what", {"names": ["a"], "_type": "ClassLabel"}, "label 1, of 1 names"),
        ("picture", {}, "cannot read the data set"),
        ("what", {"_type": "Value", "dtype": "int9"}, "cannot read the data set"),
        ("what", 3, "cannot read the data set"),
    ],
)
def test_senseless_descriptions_are_one_error(hugging: Any, tmp_path: Path, key: str, value: Any, said: str) -> None:
    rows(hugging, 0, 9).save_to_disk(str(tmp_path / "a"))
    file = tmp_path / "a" / "dataset_info.json"
    raw = json.loads(file.read_text())
    raw["features"][key] = value
    file.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=said) as error:
        load_dataset(tmp_path / "a")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_pipes_and_devices_are_not_waited_for(hugging: Any, tmp_path: Path) -> None:
    rows(hugging, 0, 15).save_to_disk(str(tmp_path / "a"))
    os.mkfifo(tmp_path / "a" / "more.arrow")
    with pytest.raises(DataError, match="no regular file"):
        load_dataset(tmp_path / "a")


@pytest.mark.parametrize("place", ["/dev/zero", "/etc/passwd", "0.png", "a\0b", "\x1b[2J"])
def test_a_row_does_not_say_which_file_is_read(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.png").write_bytes(photo(3))
    monkeypatch.chdir(tmp_path)
    image = SavedImage([{"image": {"bytes": None, "path": place}}], "image", 0, tmp_path / "a")
    with pytest.raises(DataError, match=r"row 0 has no image but the name of a file, .*, which is not read"):
        image.read_bytes()


@pytest.mark.parametrize("name", ["../{}", "{}", "x/../../{}"])
def test_a_saved_set_names_no_file_outside(hugging: Any, tmp_path: Path, name: str) -> None:
    """The library would read what ``state.json`` names, wherever it is."""
    rows(hugging, 0, 15).save_to_disk(str(tmp_path / "private"))
    rows(hugging, 0, 15).save_to_disk(str(tmp_path / "a"))
    rows(hugging, 0, 15).save_to_disk(str(tmp_path / "b" / "train"))
    (there,) = (tmp_path / "private").glob("*.arrow")
    file = tmp_path / "a" / "state.json"
    raw = json.loads(file.read_text())
    raw["_data_files"] = [{"filename": name.format(there if name == "{}" else f"private/{there.name}")}]
    file.write_text(json.dumps(raw))
    split = name.format(tmp_path / "private" if name == "{}" else "private")
    (tmp_path / "b" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", split]}))
    for read in (load_dataset, load_photos):
        for outside in ("a", "b"):
            with pytest.raises(DataError, match="which is not in its folder"):
                read(tmp_path / outside)


def test_damage_that_would_end_the_process(hugging: Any, tmp_path: Path) -> None:
    """Where a value begins and ends is changed: the library would read what lies there."""
    rows(hugging, 0, 15).save_to_disk(str(tmp_path / "a"))
    (file,) = (tmp_path / "a").glob("*.arrow")
    content = file.read_bytes()
    size = len(photo(0))
    offsets = b"".join(int(size * n).to_bytes(4, "little") for n in range(2, 5))
    assert offsets in content
    file.write_bytes(content.replace(offsets, b"".join(int(2**30 + n).to_bytes(4, "little") for n in range(3))))
    code = "import sys; from pathlib import Path; from edgetl.data.dataset import load_photos, DataError\n"
    code += "try:\n    [photo.source.read_bytes() for photo in load_photos(Path(sys.argv[1]))]\n"
    code += "except DataError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 2), done.stderr[-500:]
    assert "cannot read the data set" in done.stdout


def test_without_the_library_the_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r'pip install "edgetl\[hf\]"'):
        load_dataset(tmp_path)
