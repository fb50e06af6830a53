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
