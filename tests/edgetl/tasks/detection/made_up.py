"""The same few photos with boxes as COCO, VOC, YOLO and a saved Hugging Face data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = ("cell", "plate")
SPLITS = {"train": 12, "val": 4}
SIZE = (40, 30)


def boxes_of(number: int) -> list[tuple[int, int, int, int, int]]:
    """Left, top, right, bottom, label: none in every fifth photo."""
    if number % 5 == 4:
        return []
    rng = np.random.default_rng(number)
    found = []
    for label in (0, 1, number % 2):
        left, top = int(rng.integers(0, 20)), int(rng.integers(0, 14))
        found.append((left, top, left + int(rng.integers(4, 20)), top + int(rng.integers(4, 16)), label))
    return sorted(set(found))


def photos(folder: Path, split: str) -> list[tuple[int, Path]]:
    """Written below `folder`: number and file of each."""
    folder.mkdir(parents=True, exist_ok=True)
    offset = 0 if split == "train" else 100
    written = []
    for number in range(offset, offset + SPLITS[split]):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        written.append((number, folder / f"p{number}.png"))
    return written


def coco(root: Path) -> Path:
    for split in SPLITS:
        images, annotations = [], []
        for number, file in photos(root / split, split):
            images.append({"id": number, "file_name": file.name, "width": SIZE[0], "height": SIZE[1]})
            for left, top, right, bottom, label in boxes_of(number):
                box = [left, top, right - left, bottom - top]
                annotations.append({"id": len(annotations), "image_id": number, "category_id": label + 3, "bbox": box})
        categories = [{"id": place + 3, "name": name} for place, name in enumerate(LABELS)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(lines(document))
    return root


def lines(document: dict[str, Any]) -> str:
    """JSON with a line for each entry, so that lines can be checked."""
    parts = [f'"{key}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]" for key, entries in document.items()]
    return "{" + ",\n".join(parts) + "}"


def voc(root: Path) -> Path:
    for split in SPLITS:
        for number, file in photos(root / split, split):
            objects = "".join(
                f"<object><name>{LABELS[label]}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin>"
                f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>\n"
                for left, top, right, bottom, label in boxes_of(number)
            )
            size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
            file.with_suffix(".xml").write_text(
                f"<annotation><filename>{file.name}</filename>{size}\n{objects}</annotation>"
            )
    return root


def yolo(root: Path) -> Path:
    for split in SPLITS:
        (root / "labels" / split).mkdir(parents=True)
        for number, file in photos(root / "images" / split, split):
            rows = [
                f"{label} {(left + right) / 2 / SIZE[0]:.8f} {(top + bottom) / 2 / SIZE[1]:.8f} "
                f"{(right - left) / SIZE[0]:.8f} {(bottom - top) / SIZE[1]:.8f}\n"
                for left, top, right, bottom, label in boxes_of(number)
            ]
            (root / "labels" / split / f"{file.stem}.txt").write_text("".join(rows))
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: cell\n  1: 'plate'\n"
    )
    return root


def saved(root: Path) -> Path:
    import datasets

    objects = {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
               "category": datasets.Sequence(datasets.ClassLabel(names=list(LABELS)))}  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    splits = {}
    for split in SPLITS:
        rows: dict[str, list[Any]] = {"image": [], "objects": []}
        for number, file in photos(root.parent / "pixels" / split, split):
            boxes = boxes_of(number)
            rows["image"].append(str(file))
            rows["objects"].append(
                {"bbox": [[a, b, c - a, d - b] for a, b, c, d, _ in boxes], "category": [e for *_, e in boxes]}
            )
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return root
