from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import (
    DataOptions,
    Dataset,
    Sample,
    demo_digits,
    load_dataset,
    load_labelled,
    load_photos,
    pick,
)
from edgetl_runtime.errors import DataError, EdgetlError, UsageError
from edgetl_runtime.manifest import Label

FLOWERS = (Label("daisy", "daisy"), Label("rose", "rose"), Label("tulip", "tulip"))


def names(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.name for sample in samples}


def test_plain_folders_are_split_by_label_and_by_seed(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "flowers", {"tulip": 10, "rose": 20})
    one = load_dataset(tmp_path / "flowers")
    assert one.name == "flowers"
    assert one.labels == (Label("rose", "rose"), Label("tulip", "tulip"))
    assert Counter(s.label for s in one.val) == {0: 4, 1: 2}
    assert Counter(s.label for s in one.train) == {0: 16, 1: 8}
    assert not names(one.train) & names(one.val)
    assert one.held_out == (one.val, "val")
    same, other = load_dataset(tmp_path / "flowers"), load_dataset(tmp_path / "flowers", DataOptions(seed=1))
    assert names(same.val) == names(one.val)
    assert names(other.val) != names(one.val)


def test_split_folders_are_used(tmp_path: Path, make_photos: Any) -> None:
    for split, n in (("train", 6), ("valid", 2), ("test", 3)):
        make_photos(tmp_path / split, {"rose": n, "tulip": n})
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 6)
    assert data.held_out == (data.test, "test")
    assert "train/rose/000.jpg" in names(data.train)


def test_without_val_the_test_photos_stay_unseen(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "train", {"rose": 10, "tulip": 10})
    make_photos(tmp_path / "test", {"rose": 1, "tulip": 1})
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 2)
    assert all(name.startswith("train/") for name in names(data.train + data.val))


def test_val_may_lie_elsewhere(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "a", {"rose": 6, "tulip": 6})
    make_photos(tmp_path / "b", {"rose": 2})
    data = load_dataset(tmp_path / "a", DataOptions(val=tmp_path / "b"))
    assert (len(data.train), len(data.val)) == (12, 2)


def names_of(data: Dataset) -> list[str]:
    return [sample.name for sample in (*data.train, *data.val, *data.test)]


def test_photos_go_by_their_place_in_the_data_never_by_that_on_the_disk(tmp_path: Path, make_photos: Any) -> None:
    photos = make_photos(tmp_path / "photos", {"train/rose": 5, "train/tulip": 5, "val/rose": 2, "val/tulip": 2})
    held_out = make_photos(tmp_path / "held_out", {"val/rose": 2, "val/tulip": 2, "test/rose": 1, "test/tulip": 1})
    data = load_dataset(photos, DataOptions(val=held_out))
    assert {"train/rose/000.jpg", "val/tulip/001.jpg"} <= set(names_of(data))
    assert any("the validation split of photos (4 images) is not used" in note for note in data.notes)
    assert str(tmp_path) not in " ".join((*names_of(data), *data.notes))


def test_photos_that_a_table_has_elsewhere_go_by_the_folder_that_has_them(tmp_path: Path, make_photos: Any) -> None:
    photos = make_photos(tmp_path / "disk" / "photos", {"rose": 5, "tulip": 5})
    near = make_photos(tmp_path / "data", {"rose": 1})
    files = [*sorted(photos.rglob("*.jpg")), near / "rose/000.jpg"]
    lines = [f"{file},{file.parent.name}" for file in files]
    (near / "t.csv").write_text("\n".join(["path,label", *lines]))
    names = names_of(load_dataset(near / "t.csv", DataOptions(min_per_class=2)))
    assert set(names) == {f"photos/{label}/{i:03d}.jpg" for label in ("rose", "tulip") for i in range(5)} | {
        "rose/000.jpg"
    }


def test_images_are_found_recursively_and_hidden_ones_are_not(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 6, "tulip": 6})
    make_photos(tmp_path / "rose", {"deep/down": 1, ".thumbnails": 1})
    Image.new("L", (9, 9)).save(tmp_path / "rose" / "grey.PNG")
    (tmp_path / "rose" / "notes.txt").write_text("not a photo")
    (tmp_path / "rose" / "._000.jpg").write_text("left by another system")
    data = load_dataset(tmp_path)
    found = {n for n in names(data.train + data.val) if n.startswith("rose")}
    assert len(found) == 8
    assert {"rose/deep/down/000.jpg", "rose/grey.PNG"} < found


def test_a_link_that_leads_back_up_ends(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 5, "tulip": 5})
    (tmp_path / "rose" / "loop").symlink_to(tmp_path / "rose")
    data = load_dataset(tmp_path)
    assert len(data.train + data.val) == 10


def test_csv_with_and_without_splits(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"r": 6, "t": 6})
    rows = [f"{label}/{k:03d}.jpg,{name}" for label, name in (("r", "rose"), ("t", "tulip")) for k in range(6)]
    table = tmp_path / "mine.csv"
    table.write_text("\ufeffpath, label\n" + "\n".join(rows), encoding="utf-8")
    data = load_dataset(table)
    assert (data.name, [label.id for label in data.labels]) == ("mine", ["rose", "tulip"])
    assert (len(data.train), len(data.val)) == (10, 2)
    splits = (["train"] * 5 + ["validation"]) * 2
    table.write_text("path,label,split\n" + "\n".join(f"{r},{s}" for r, s in zip(rows, splits, strict=True)))
    assert names(load_dataset(table).val) == {"r/005.jpg", "t/005.jpg"}
    samples, split = load_labelled(table, FLOWERS)
    assert (split, [s.label for s in samples]) == ("val", [1, 2])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label\na.jpg,x\n", "no column 'path'"),
        ("", "it has: nothing"),
        ("path,label,split\nr/000.jpg,rose,holdout\n", "line 2: unknown split 'holdout'"),
        ("path,label\nr/000.jpg,rose\nr/0.jpg,rose\nr/1.jpg,rose\n", r"2 files that are not there: \S*r/0.jpg"),
        ("path,label\nr/000.jpg,rose\nr/000.jpg,tulip\n", "line 3: .* stands in line 2 already"),
        ("path,label\nr/000.jpg,\n", "line 2: path or label is empty"),
        ("path,label,split\nr/000.jpg,rose,train\nr/001.jpg,rose,\n", "some lines only"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path: Path, make_photos: Any, text: str, says: str) -> None:
    make_photos(tmp_path, {"r": 2})
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        load_dataset(tmp_path / "t.csv")
    assert caught.value.fix


def test_missing_empty_and_unusable_folders_are_refused(tmp_path: Path, make_photos: Any) -> None:
    def says(folder: Path) -> str:
        with pytest.raises(DataError) as caught:
            load_dataset(folder)
        assert caught.value.fix
        return str(caught.value)

    assert "does not exist" in says(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no labelled images" in says(tmp_path / "empty")
    make_photos(tmp_path / "one", {"rose": 8})
    assert "one label only: 'rose'" in says(tmp_path / "one")
    assert "one folder per label" in says(tmp_path / "one" / "rose")
    make_photos(tmp_path / "few", {"rose": 8, "tulip": 2, "aster": 0})
    assert "aster (0), tulip (2)" in says(tmp_path / "few")
    make_photos(tmp_path / "more" / "train", {"rose": 8, "tulip": 8})
    make_photos(tmp_path / "more" / "val", {"rose": 1, "lily": 1})
    assert "labels that train lacks: lily" in says(tmp_path / "more")
    make_photos(tmp_path / "hollow" / "train", {"rose": 8, "tulip": 8})
    (tmp_path / "hollow" / "val").mkdir()
    assert "no images in val" in says(tmp_path / "hollow")
    make_photos(tmp_path / "untrained" / "val", {"rose": 8, "tulip": 8})
    assert "no train" in says(tmp_path / "untrained")


def test_a_senseless_fraction_is_refused(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 8, "tulip": 8})
    with pytest.raises(UsageError, match="val_fraction"):
        load_dataset(tmp_path, DataOptions(val_fraction=1.0))
    almost = load_dataset(tmp_path, DataOptions(val_fraction=0.99))
    assert {s.label for s in almost.train} == {0, 1}


def test_unreadable_images_are_listed_or_skipped(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 20, "tulip": 8})
    cut = tmp_path / "rose" / "003.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "tulip" / "004.jpg").write_text("a web page")
    with pytest.raises(DataError, match="2 images in") as caught:
        load_dataset(tmp_path)
    assert "003.jpg: image file is truncated" in str(caught.value)
    assert "004.jpg: cannot identify" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    data = load_dataset(tmp_path, DataOptions(skip_bad=True))
    assert [bad.path.name for bad in data.bad] == ["003.jpg", "004.jpg"]
    assert len(data.train + data.val) == 26
    with pytest.raises(DataError, match="tulip"):
        load_dataset(tmp_path, DataOptions(skip_bad=True, min_per_class=8))


def test_a_long_list_of_unreadable_images_is_cut(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 8, "tulip": 8})
    for k in range(12):
        (tmp_path / "rose" / f"x{k:02d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)x09\.png.*and 2 more"):
        load_dataset(tmp_path)


@pytest.mark.data
def test_a_real_photo_that_lacks_its_end_is_found(tmp_path: Path, edgetl_data: Path) -> None:
    photos = sorted((edgetl_data / "flowers" / "val" / "daisy").glob("*.jpg"))[:6]
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for photo in photos:
            (tmp_path / label / photo.name).write_bytes(photo.read_bytes())
    whole = photos[0].read_bytes()
    (tmp_path / "a" / photos[0].name).write_bytes(whole[: int(len(whole) * 0.95)])
    data = load_dataset(tmp_path, DataOptions(skip_bad=True))
    assert [bad.path.name for bad in data.bad] == [photos[0].name]


def test_fingerprint_follows_content_and_split_but_not_names(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "a", {"rose": 6, "tulip": 6})
    before = load_dataset(tmp_path / "a")
    assert load_dataset(tmp_path / "a").fingerprint == before.fingerprint
    assert load_dataset(tmp_path / "a", DataOptions(seed=5)).fingerprint != before.fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_dataset(tmp_path / "b").fingerprint == before.fingerprint
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "rose" / "000.jpg")
    assert load_dataset(tmp_path / "b").fingerprint != before.fingerprint


def test_labelled_photos_are_matched_by_id_else_by_name(tmp_path: Path, make_photos: Any) -> None:
    labels = (Label("n1", "crane"), Label("n2", "heron"), Label("n3", "crane"))
    make_photos(tmp_path / "a", {"n3": 1, "heron": 2})
    samples, split = load_labelled(tmp_path / "a", labels)
    assert (split, sorted(s.label for s in samples)) == ("all", [1, 1, 2])
    make_photos(tmp_path / "b", {"crane": 1})
    with pytest.raises(DataError, match="no label of the model: crane"):
        load_labelled(tmp_path / "b", labels)


def test_labelled_photos_come_from_test_else_val_never_train(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "train", {"rose": 3})
    with pytest.raises(DataError, match="training photos only"):
        load_labelled(tmp_path, FLOWERS)
    make_photos(tmp_path / "valid", {"rose": 2})
    assert [len(load_labelled(tmp_path, FLOWERS)[0]), load_labelled(tmp_path, FLOWERS)[1]] == [2, "val"]
    make_photos(tmp_path / "test", {"tulip": 1})
    samples, split = load_labelled(tmp_path, FLOWERS)
    assert (split, [s.label for s in samples]) == ("test", [2])


def test_labelled_photos_that_cannot_be_read(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path, {"rose": 2})
    (tmp_path / "rose" / "x.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match=r"x\.jpg"):
        load_labelled(tmp_path, FLOWERS)
    assert len(load_labelled(tmp_path, FLOWERS, skip_bad=True)[0]) == 2


def test_photos_for_calibration(tmp_path: Path, make_photos: Any) -> None:
    make_photos(tmp_path / "a", {"x": 3, "y": 1})
    assert [s.label for s in load_photos(tmp_path / "a")] == [0, 0, 0, 1]
    make_photos(tmp_path / "c" / "Train", {"x": 2})
    make_photos(tmp_path / "c" / "test", {"x": 2})
    assert [s.name for s in load_photos(tmp_path / "c")] == ["Train/x/000.jpg", "Train/x/001.jpg"]
    (tmp_path / "b").mkdir()
    for folder in (tmp_path / "b", tmp_path / "nowhere"):
        with pytest.raises(DataError):
            load_photos(folder)


def test_pick_is_even_and_deterministic() -> None:
    samples = tuple(
        Sample(Path("x"), label, f"{label}-{i}") for label, n in ((0, 50), (1, 10), (2, 3)) for i in range(n)
    )
    chosen = pick(samples, 15, seed=1)
    assert Counter(s.label for s in chosen) == {0: 6, 1: 6, 2: 3}
    assert names(chosen) == names(pick(samples, 15, seed=1)) != names(pick(samples, 15, seed=2))
    assert pick(samples, 100) == samples
    assert len(pick(samples, 2)) == len({s.label for s in pick(samples, 2)}) == 2
    with pytest.raises(EdgetlError):
        pick(samples, 0)


def test_the_digits_are_real_and_split_by_label() -> None:
    data = demo_digits()
    assert [len(s) for s in (data.train, data.val, data.test)] == [1079, 359, 359]
    assert len(names(data.train + data.val + data.test)) == 1797
    assert min(Counter(s.label for s in data.test).values()) >= 34
    image = data.train[0].source
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    assert max(np.max(s.source) for s in data.train if isinstance(s.source, np.ndarray)) == 255
