"""Annotated photos: the same samples in every format, and one message with file and line for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import Dataset
from edgetl.data.options import DataOptions
from edgetl.tasks.detection.reading import read_dataset, read_labelled
from edgetl.tasks.task import Judging
from edgetl_export.progress import silent
from edgetl_runtime.errors import DataError, EdgetlError
from edgetl_runtime.manifest import Label, Preprocess
from tests.edgetl.tasks.detection import made_up

SPEC = Preprocess(resize=0, crop=(32, 32), mode="stretch")
LARGE, TINY = (Preprocess(resize=0, crop=(side, side), mode="stretch") for side in (320, 8))
WRITERS = {"coco": made_up.coco, "voc": made_up.voc, "yolo": made_up.yolo, "saved": made_up.saved}


def read(path: Path, *, spec: Preprocess = SPEC, **options: Any) -> Dataset:
    return read_dataset(path, DataOptions(**options), spec=spec, track=silent, task="detection")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    if kind == "saved":
        pytest.importorskip("datasets")
    data = read(WRITERS[kind](tmp_path / kind))
    assert [label.id for label in data.labels] == list(made_up.LABELS)
    assert (len(data.train), len(data.val)) == (12, 4)
    numbers = [*sorted(range(12), key=lambda n: n if kind == "saved" else f"p{n}.png"), *range(100, 104)]
    if kind == "coco":
        numbers = [*range(12), *range(100, 104)]
    for number, sample in zip(numbers, (*data.train, *data.val), strict=True):
        assert sample.size == made_up.SIZE
        assert sample.target is not None
        expected = [(*box, 0) for box in made_up.boxes_of(number)]
        assert sample.target == pytest.approx(np.array(expected, np.float64).reshape(-1, 6), abs=1e-4), sample.name
    assert any(note.startswith("2 photos have no box") for note in data.notes)


def test_a_label_without_a_box_is_left_out_and_said(tmp_path: Path) -> None:
    """Some tools write one for all objects that no box has."""
    file = made_up.coco(tmp_path) / "instances_train.json"
    document = json.loads(file.read_text())
    document["categories"].insert(0, {"id": 0, "name": "things"})
    file.write_text(json.dumps(document))
    data = read(tmp_path)
    assert [label.id for label in data.labels] == list(made_up.LABELS)
    assert any("left out: things" in note for note in data.notes)


def test_photos_beside_their_masks_are_found(tmp_path: Path) -> None:
    """As a data set for both tasks has them; its masks are no photos that somebody forgot to annotate."""
    made_up.coco(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split).rename(tmp_path / "photos")
        (tmp_path / split).mkdir()
        shutil.copytree(tmp_path / "photos", tmp_path / split / "masks")
        (tmp_path / "photos").rename(tmp_path / split / "images")
    data = read(tmp_path)
    assert len(data.train) == 12
    assert not any("have no annotation" in note for note in data.notes)


def test_without_a_split_one_is_drawn(tmp_path: Path) -> None:
    made_up.coco(tmp_path / "both")
    (tmp_path / "all").mkdir()
    shutil.copytree(tmp_path / "both/train", tmp_path / "all/images")
    shutil.copy(tmp_path / "both/instances_train.json", tmp_path / "all/annotations.json")
    data = read(tmp_path / "all", min_per_class=2)
    assert len(data.train) + len(data.val) == 12
    assert 1 <= len(data.val) <= 4
    again = read(tmp_path / "all", min_per_class=2)
    assert [sample.name for sample in data.val] == [sample.name for sample in again.val]


def test_validation_photos_of_another_folder(tmp_path: Path) -> None:
    data = read(made_up.coco(tmp_path / "a"), val=made_up.voc(tmp_path / "b"))
    assert len(data.val) == 4
    assert any("is not used" in note for note in data.notes)


def test_photos_to_judge_on(tmp_path: Path) -> None:
    told: list[str] = []
    labels = [Label("1", "plate"), Label("2", "dog"), Label("3", "cell")]  # the model's own order
    judging = Judging(SPEC, tell=told.append)
    samples, split = read_labelled(made_up.yolo(tmp_path), labels, judging)
    assert (len(samples), split) == (4, "val")
    kinds = {int(label) for sample in samples if sample.target is not None for label in sample.target[:, 4]}
    assert kinds == {0, 2}
    assert told[0] == "boxes are read as YOLO"
    with pytest.raises(DataError, match=r"labels/val/p100.txt:\d+: label 'cell' is not known"):
        read_labelled(tmp_path, labels[:2], judging)


Change = Callable[[dict[str, Any]], object]
COCO_FAULTS: dict[str, tuple[Change, str]] = {
    "outside": (
        lambda d: d["annotations"][1].update(bbox=[30, 20, 30, 5]),
        "instances_train.json:17.*outside of the photo",
    ),
    "no area": (lambda d: d["annotations"][1].update(bbox=[3, 3, 0, 5]), "instances_train.json:17.*of no area"),
    "inverted": (lambda d: d["annotations"][1].update(bbox=[3, 3, -2, 5]), "instances_train.json:17.*inverted"),
    "not numbers": (lambda d: d["annotations"][1].update(bbox=["a", 3, 2, 5]), "instances_train.json:17.*four numbers"),
    "label": (lambda d: d["annotations"][1].update(category_id=9), "instances_train.json:17.*category_id 9"),
    "no such photo": (lambda d: d["annotations"][1].update(image_id=999), "instances_train.json:17.*image_id 999"),
    "photo missing": (lambda d: d["images"][2].update(file_name="gone.png"), "instances_train.json:4.*gone.png"),
    "swapped": (lambda d: d["images"][2].update(width=30, height=40), "instances_train.json:4.*swapped"),
    "other size": (lambda d: d["images"][2].update(width=80, height=60), "instances_train.json:4.*it says 80x60"),
    "twice": (
        lambda d: d["annotations"].insert(1, {**d["annotations"][0], "id": 99}),
        "instances_train.json:17.*twice",
    ),
    "two of one id": (lambda d: d["images"][2].update(id=0), "instances_train.json:4.*two images"),
    "elsewhere": (lambda d: d["images"][2].update(file_name="../val/p100.png"), "instances_train.json:4.*leads out of"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_coco_faults_are_said_with_their_line(tmp_path: Path, fault: str) -> None:
    change, message = COCO_FAULTS[fault]
    file = made_up.coco(tmp_path) / "instances_train.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(made_up.lines(document))
    with pytest.raises(DataError, match=message):
        read(tmp_path)


YOLO_FAULTS = {
    "0 0.5 0.5 0.2": "not a label and a box",
    "0 0.5 0.5 0.2 x": "not a label and a box",
    "7 0.5 0.5 0.2 0.2": "label 7 of 2 names",
    "0.5 0.5 0.5 0.2 0.2": "label 0.5 of 2 names",
    "0 0.9 0.5 0.6 0.2": "outside of the photo",
    "0 0.5 0.5 -0.2 0.2": "inverted",
    "0 0.5 0.5 0 0.2": "of no area",
    "0 nan 0.5 0.1 0.2": "not a label and a box",
}


@pytest.mark.parametrize("line", YOLO_FAULTS)
def test_yolo_faults_are_said_with_their_line(tmp_path: Path, line: str) -> None:
    file = made_up.yolo(tmp_path) / "labels/train/p3.txt"
    file.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=f"p3.txt:2.*{YOLO_FAULTS[line]}"):
        read(tmp_path)


VOC_FAULTS = {
    ("<xmax>", "<xmax>x"): "not a number",
    ("<name>cell", "<name>"): "without a name",
    ("<xmin>", "<xmin>3"): "inverted|outside",
    ("</annotation>", ""): "not XML",
}


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_voc_faults_are_said_with_their_line(tmp_path: Path, fault: tuple[str, str]) -> None:
    file = made_up.voc(tmp_path) / "train/p3.xml"
    file.write_text(file.read_text().replace(*fault, 1))
    with pytest.raises(DataError, match=rf"p3.xml:\d+: .*({VOC_FAULTS[fault]})"):
        read(tmp_path)


def test_annotations_and_photos_that_miss_each_other(tmp_path: Path) -> None:
    root = made_up.voc(tmp_path / "voc")
    shutil.copy(root / "train/p3.png", root / "train/new.png")
    assert any(note.startswith("1 photos have no annotation") for note in read(root).notes)
    (root / "train/p3.png").unlink()
    with pytest.raises(DataError, match=r"p3.xml:1: there is no photo"):
        read(root)
    root = made_up.yolo(tmp_path / "yolo")
    (root / "labels/train/p3.txt").unlink()
    assert any("1 photos of train have no text file" in note for note in read(root).notes)
    (root / "labels/train/lonely.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"lonely.txt:1: there is no photo"):
        read(root)


def test_difficult_and_crowds_are_flagged(tmp_path: Path) -> None:
    root = made_up.voc(tmp_path / "voc")
    file = root / "train/p3.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    flags = {
        sample.name: sample.target[:, 5] for sample in read(root, min_per_class=1).train if sample.target is not None
    }
    assert (flags["train/p3.png"] == 2).all()
    file = made_up.coco(tmp_path / "coco") / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    target = read(tmp_path / "coco").train[0].target
    assert target is not None
    assert target[0, 5] == 1


def test_boxes_are_of_the_upright_photo(tmp_path: Path) -> None:
    """A photo that lies on its side, annotated as it is looked at, and as it lies in the file."""
    root = made_up.coco(tmp_path)
    image = Image.open(root / "train/p0.png").convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "train/p0.png").unlink()
    image.save(root / "train/p0.jpg", exif=exif)
    file = root / "instances_train.json"
    file.write_text(file.read_text().replace("p0.png", "p0.jpg"))
    assert read(root).train[0].size == made_up.SIZE
    document = json.loads(file.read_text())
    document["images"][0].update(width=made_up.SIZE[1], height=made_up.SIZE[0])
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="swapped"):
        read(root)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_damaged_annotations_are_read_or_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are changed, left out or put in: samples or an `EdgetlError`, nothing else."""
    monkeypatch.setattr(made_up, "SPLITS", {"train": 4, "val": 2})
    root, rng = WRITERS[kind](tmp_path), np.random.default_rng(0)
    files = [file for file in sorted(root.rglob("*")) if file.suffix in (".json", ".xml", ".txt", ".yaml")]
    bits = [
        b"NaN",
        b"1e999",
        b"-1",
        b"null",
        b"[]",
        b'"x"',
        b"9" * 30,
        b"0.5",
        b"\0",
        b"\xff",
        b"<a>",
        b"</object>",
        b" ",
    ]
    outcomes = set()
    for _ in range(60):
        file = files[int(rng.integers(len(files)))]
        kept = file.read_bytes()
        place, cut = int(rng.integers(len(kept) + 1)), int(rng.integers(0, 9))
        file.write_bytes(kept[:place] + bits[int(rng.integers(len(bits)))] + kept[place + cut :])
        try:
            read(root, min_per_class=0)
            outcomes.add("read")
        except EdgetlError:
            outcomes.add("refused")
        file.write_bytes(kept)
    assert "refused" in outcomes


def test_too_little_to_train_on(tmp_path: Path) -> None:
    root = made_up.coco(tmp_path)
    with pytest.raises(DataError, match="too few training photos with: cell"):
        read(root, min_per_class=11)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no boxes in a format that is known"):
        read(tmp_path / "nothing")


def test_one_photo_cannot_be_split(tmp_path: Path) -> None:
    root = made_up.coco(tmp_path / "coco")
    (root / "instances_val.json").unlink()
    file = root / "instances_train.json"
    document = json.loads(file.read_text())
    document["images"] = document["images"][:1]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] == 0]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"(?s)no label has two photos.*--val"):
        read(root, min_per_class=1)


def test_objects_that_are_hardly_there_are_said(tmp_path: Path) -> None:
    """Of large photos, in the size that the network is given: the boxes are right, and nothing is learned of them."""
    root = made_up.coco(tmp_path)
    assert not any("hardly anything is learned" in note for note in read(root, spec=LARGE).notes)
    (note,) = (note for note in read(root, spec=TINY).notes if "hardly anything is learned" in note)
    assert note.startswith("warning: 30 of 30 boxes to train on are below 8x8 pixels in images of 8x8, half of them")
