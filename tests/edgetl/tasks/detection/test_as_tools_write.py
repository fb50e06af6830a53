"""Data sets as tools write them - Roboflow, CVAT, Label Studio, FiftyOne, Ultralytics: the same boxes as ever."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.data.dataset import Dataset
from edgetl.data.options import DataOptions
from edgetl.tasks.detection.reading import read_dataset
from edgetl_export.progress import silent
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Preprocess
from tests.edgetl.tasks.detection import made_up

SPEC = Preprocess(resize=0, crop=(32, 32), mode="stretch")


def read(path: Path) -> Dataset:
    return read_dataset(path, DataOptions(min_per_class=1), spec=SPEC, track=silent, task="detection")


def boxes_by_photo(data: Dataset) -> dict[str, list[tuple[object, ...]]]:
    """Photo -> its boxes with the names of their labels, by their corners."""
    names = [label.name for label in data.labels]
    found: dict[str, list[tuple[object, ...]]] = {}
    for sample in (*data.train, *data.val):
        assert sample.target is not None
        rows = [(*np.rint(row[:4]).tolist(), names[int(row[4])]) for row in sample.target]
        found[Path(sample.name).stem] = sorted(rows, key=str)
    return found


def expected_boxes(numbers: range) -> dict[str, list[tuple[object, ...]]]:
    return {
        f"p{number}": sorted(((*map(float, box[:4]), made_up.LABELS[box[4]]) for box in made_up.boxes_of(number)),
                             key=str) for number in numbers
    }  # fmt: skip


def train_only(root: Path) -> Path:
    """COCO's file of the training photos, ``labels.json``, with the photos below ``data``."""
    made_up.coco(root / "both")
    (root / "all").mkdir()
    shutil.move(root / "both/train", root / "all/data")
    shutil.move(root / "both/instances_train.json", root / "all/labels.json")
    return root / "all"


Change = Callable[[dict[str, Any]], object]
COCO_OF_TOOLS: dict[str, Change] = {
    "a category over all is called like one of its own": lambda d: d["categories"].insert(0, {"id": 0, "name": "cell"}),
    "folders as Windows separates them": lambda d: [i.update(file_name=f"data\\{i['file_name']}") for i in d["images"]],
    "whole numbers with a point": lambda d: [
        i.update(id=float(i["id"]), width=float(i["width"]), height=float(i["height"])) for i in d["images"]
    ],
    "an empty outline": lambda d: [a.update(segmentation=[[]]) for a in d["annotations"]],
    "two corners for an outline": lambda d: [a.update(segmentation=[[1, 2, 3, 4]]) for a in d["annotations"]],
    "no outline, as text": lambda d: [a.update(segmentation="") for a in d["annotations"]],
    "photos in data beside labels.json": lambda d: None,
}


@pytest.mark.parametrize("kind", COCO_OF_TOOLS)
def test_coco(tmp_path: Path, kind: str) -> None:
    root = train_only(tmp_path)
    document = json.loads((root / "labels.json").read_text())
    COCO_OF_TOOLS[kind](document)
    (root / "labels.json").write_text(json.dumps(document))
    assert boxes_by_photo(read(root)) == expected_boxes(range(12))


YAMLS = {
    "names over several lines": "train: images/train\nval: images/val\nnames: ['cell', # one\n  'plate']\nnc: 2\n",
    "lists of folders": "train:\n  - images/train\nval: [images/val]\nnames:\n  0: cell\n  1: plate\n",
    "lists of folders without an indent": "train:\n- images/train\nval:\n- images/val\nnames:\n- cell\n- plate\n",
    "a list of photos": "path: .\ntrain: train.txt\nval: images/val\nnames: {0: cell, 1: plate}\n",
    "folders as Windows separates them": "path: .\\\ntrain: .\\images\\train\nval: images\\val\nnames: [cell, plate]\n",
    "a list of photos on Windows": "train: windows.txt\nval: images/val\nnames: [cell, plate]\n",
    "a test that is not there": "train: ../images/train\nval: images/val\ntest: ../images/test\nnames: [cell, plate]\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yolo(tmp_path: Path, kind: str) -> None:
    root = made_up.yolo(tmp_path)
    photos = [f"images/train/p{number}.png\n" for number in range(12)]
    (root / "train.txt").write_text(
        "".join(f"data/{photo}" if place % 2 else photo for place, photo in enumerate(photos))
    )
    (root / "windows.txt").write_text("".join(photos).replace("/", "\\"))
    (root / "data.yaml").write_text(YAMLS[kind])
    data = read(root)
    assert boxes_by_photo(data) == {**expected_boxes(range(12)), **expected_boxes(range(100, 104))}
    assert any("'../images/test' as test, which is not there" in note for note in data.notes) == ("test" in kind)


@pytest.mark.parametrize("folders", [("labels",), ("labels/train", "labels/val")])
def test_yolo_with_the_names_beside_the_labels(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """As LabelImg writes them: into every folder, in the order in which they were first used there."""
    root = made_up.yolo(tmp_path)
    (root / "data.yaml").unlink()
    for folder in folders:
        (root / folder / "classes.txt").write_text("cell\nplate\n")
    assert boxes_by_photo(read(root)) == {**expected_boxes(range(12)), **expected_boxes(range(100, 104))}
    if len(folders) > 1:
        (root / folders[1] / "classes.txt").write_text("plate\ncell\n")
        with pytest.raises(DataError, match=r"train/classes.txt and .*val/classes.txt name other labels"):
            read(root)


def test_yolo_with_the_names_in_the_folders_of_splits(tmp_path: Path) -> None:
    root = made_up.yolo(tmp_path / "yolo")
    for split in made_up.SPLITS:
        shutil.move(root / "images" / split, tmp_path / "all" / split)
        for file in (root / "labels" / split).iterdir():
            shutil.move(file, tmp_path / "all" / split / file.name)
        (tmp_path / "all" / split / "classes.txt").write_text("cell\nplate\n")
    assert boxes_by_photo(read(tmp_path / "all")) == {**expected_boxes(range(12)), **expected_boxes(range(100, 104))}


def test_yolo_joins_the_folders_of_a_split(tmp_path: Path) -> None:
    root = made_up.yolo(tmp_path)
    (root / "data.yaml").write_text("train: [images/train, images/val]\nnames: [cell, plate]\n")
    data = read(root)
    assert len(data.train) + len(data.val) == 16


def test_yolo_says_what_is_not_there(tmp_path: Path) -> None:
    root = made_up.yolo(tmp_path)
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [cell, plate]\n")
    with pytest.raises(DataError, match=r"data.yaml: train is 'list.txt', which is neither a folder nor a list"):
        read(root)
    (root / "list.txt").write_text("images/train/p0.png\nimages/train/gone.png\n")
    with pytest.raises(DataError, match=r"list.txt:2: there is no photo 'images/train/gone.png'"):
        read(root)


def test_yolo_points_of_a_body_are_no_outline(tmp_path: Path) -> None:
    root = made_up.yolo(tmp_path)
    for file in (root / "labels").rglob("*.txt"):
        file.write_text("".join(f"{line} 0.01 0.02 0.99 0.98\n" for line in file.read_text().splitlines()))
    with (root / "data.yaml").open("a") as opened:
        opened.write("kpt_shape: [2, 2]\n")
    assert boxes_by_photo(read(root)) == {**expected_boxes(range(12)), **expected_boxes(range(100, 104))}


@pytest.mark.parametrize(
    ("annotations", "photos"),
    [("annotations", "images"), ("Annotations", "images"), ("annotations", "JPEGImages"), ("xml", "Images")],
)
@pytest.mark.parametrize("inside", ["", "sub"])
def test_voc_with_folders_of_other_names(tmp_path: Path, annotations: str, photos: str, inside: str) -> None:
    root = made_up.voc(tmp_path / "voc")
    for folder in (annotations, photos):
        (tmp_path / "other" / folder / inside).mkdir(parents=True)
    for file in (root / "train").iterdir():
        shutil.move(file, tmp_path / "other" / (annotations if file.suffix == ".xml" else photos) / inside / file.name)
    assert boxes_by_photo(read(tmp_path / "other")) == expected_boxes(range(12))


def test_voc_with_annotations_that_are_a_table_of_labels(tmp_path: Path) -> None:
    """As TensorFlow's detection API has it: XML beside the photos, and a folder of other files."""
    root = made_up.voc(tmp_path)
    (root / "annotations").mkdir()
    (root / "annotations/label_map.pbtxt").write_text("item {}")
    assert boxes_by_photo(read(root)) == {**expected_boxes(range(12)), **expected_boxes(range(100, 104))}


def test_voc_photos_that_are_added_after_an_error_are_read(tmp_path: Path) -> None:
    """In one program, such as a notebook."""
    root = made_up.voc(tmp_path / "voc")
    (tmp_path / "other/annotations").mkdir(parents=True)
    for file in (root / "train").glob("*.xml"):
        shutil.move(file, tmp_path / "other/annotations" / file.name)
    with pytest.raises(DataError, match="there is no photo of this annotation"):
        read(tmp_path / "other")
    shutil.move(root / "train", tmp_path / "other/images")
    assert boxes_by_photo(read(tmp_path / "other")) == expected_boxes(range(12))


def test_voc_with_splits_inside_of_both_folders(tmp_path: Path) -> None:
    root = made_up.voc(tmp_path / "voc")
    for split in made_up.SPLITS:
        for file in (root / split).iterdir():
            place = tmp_path / "other" / ("annotations" if file.suffix == ".xml" else "images") / split / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, place)
    data = read(tmp_path / "other")
    assert (len(data.train), len(data.val)) == (12, 4)


@pytest.mark.parametrize("line", ["my photo {}", '"my photo {}"', "my_photo_{} -1"])
def test_voc_lists(tmp_path: Path, line: str) -> None:
    """Names with spaces, in quotes as CVAT has them; and what VOC's lists say of a label behind the name."""
    root = made_up.voc(tmp_path / "voc")
    other = tmp_path / "other"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (other / name).mkdir(parents=True)
    stem = line.removesuffix(" -1").strip('"')
    for number in range(12):
        shutil.move(root / f"train/p{number}.xml", other / f"Annotations/{stem.format(number)}.xml")
        shutil.move(root / f"train/p{number}.png", other / f"JPEGImages/{stem.format(number)}.png")
    (other / "ImageSets/Main/trainval.txt").write_text("".join(f"{line.format(n)}\n" for n in range(8)))
    (other / "ImageSets/Main/test.txt").write_text("".join(f"{line.format(n)}\n" for n in range(8, 12)))
    data = read(other)
    assert (len(data.train) + len(data.val), len(data.test)) == (8, 4)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_voc_says_its_encoding(tmp_path: Path, encoding: str) -> None:
    root = made_up.voc(tmp_path)
    for file in root.rglob("*.xml"):
        head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
        file.write_text(head + file.read_text().replace("cell", "zelle \u00e4"), encoding=encoding)
    assert [label.name for label in read(root).labels] == ["plate", "zelle \u00e4"]


@pytest.mark.parametrize("encoding", ["gb2312", "none-such"])
def test_voc_in_an_encoding_that_is_not_read(tmp_path: Path, encoding: str) -> None:
    file = made_up.voc(tmp_path) / "train/p0.xml"
    file.write_text(f'<?xml version="1.0" encoding="{encoding}"?>\n{file.read_text()}')
    with pytest.raises(DataError, match=r"p0.xml:1: "):
        read(tmp_path)


def test_saved_crowds_and_difficult_objects_are_flagged(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made_up.saved(tmp_path / "plain")
    for flags, wanted in (
        ({"iscrowd": 1}, [0, 1, 0]),
        ({"is_crowd": 1}, [0, 1, 0]),
        ({"difficult": 1}, [0, 2, 0]),
        ({"iscrowd": 1, "difficult": 2}, [0, 1, 2]),
    ):

        def flagged(row: dict[str, Any], flags: dict[str, int] = flags) -> dict[str, Any]:
            objects = row["objects"]
            places = range(len(objects["bbox"]))
            return {"objects": {**objects, **{name: [place == own for place in places] for name, own in flags.items()}}}

        folder = tmp_path / "-".join(flags)
        datasets.load_from_disk(str(tmp_path / "plain")).map(flagged).save_to_disk(str(folder))
        target = read(folder).train[0].target
        assert target is not None
        assert target[:3, 5].tolist() == wanted


def test_saved_right_and_bottom_for_width_and_height(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made_up.saved(tmp_path / "plain")

    def of_corners(row: dict[str, Any]) -> dict[str, Any]:
        boxes = [[x, y, x + width, y + height] for x, y, width, height in row["objects"]["bbox"]]
        return {"objects": {**row["objects"], "bbox": boxes}}

    datasets.load_from_disk(str(tmp_path / "plain")).map(of_corners).save_to_disk(str(tmp_path / "corners"))
    with pytest.raises(DataError, match="a bbox is left, top, width, height"):
        read(tmp_path / "corners")


def test_a_label_that_validation_photos_alone_have(tmp_path: Path) -> None:
    root = made_up.coco(tmp_path)
    file = root / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"] = [entry for entry in document["annotations"] if entry["category_id"] == 3]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"instances_val.json:\d+, .*: no box to train on has the label 'plate'"):
        read(root)


def test_photos_of_another_data_set_next_to_it_are_not_taken(tmp_path: Path) -> None:
    shutil.move(made_up.coco(tmp_path / "own") / "train", tmp_path / "images")
    with pytest.raises(DataError, match="there is no photo"):
        read(tmp_path / "own")


def test_the_folder_of_annotations_can_be_named(tmp_path: Path) -> None:
    root = made_up.coco(tmp_path)
    expected = boxes_by_photo(read(root))
    (root / "annotations").mkdir()
    for file in root.glob("*.json"):
        shutil.move(file, root / "annotations" / file.name)
    assert boxes_by_photo(read(root / "annotations")) == expected
