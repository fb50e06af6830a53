"""Photos with masks, written in every layout that is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

NAMES = ("background", "cat", "dog")
COLOURS = ((0, 0, 0), (64, 128, 64), (200, 0, 30))
OUTLINES = (
    (1, [(4.0, 3.0), (20.0, 3.0), (20.0, 15.0), (4.0, 15.0)]),
    (2, [(30.0, 10.2), (44.0, 24.2), (30.0, 24.2)]),
)
"""Label and corners, in pixels, of a photo of 48 x 32."""
SIZE = (48, 32)


def photo_of(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Noise: no two are alike."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def mask_of_scene() -> npt.NDArray[np.uint8]:
    """(32, 48): by hand, pixel by pixel."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[3:15, 4:20] = 1
    for row in range(10, 24):  # centres left of the diagonal
        mask[row, 30 : 30 + max(0, row - 10)] = 2
    return mask


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def with_values(root: Path, splits: Sequence[str] = ("train", "val"), n: int = 3, *, palette: bool = False) -> Path:
    """``images/`` and ``masks/`` in every split, values for labels."""
    for split in splits:
        for index in range(n):
            save(photo_of(10 * len(split) + index), root / split / "images" / f"{index}.png")
            mask = Image.fromarray(mask_of_scene())
            if palette:
                mask = Image.fromarray(mask_of_scene(), "P")
                mask.putpalette([level for colour in COLOURS for level in colour])
            save(mask, root / split / "masks" / f"{index}.png")
    (root / "labels.txt").write_text("\n".join(NAMES) + "\n")
    return root


def with_colours(root: Path, table: str = "class_dict.csv", n: int = 3) -> Path:
    """CamVid's folders: ``train/`` beside ``train_labels/``, colours for labels."""
    colours = np.array(COLOURS, np.uint8)
    for split in ("train", "val"):
        for index in range(n):
            save(photo_of(index), root / split / f"{index}.png")
            save(Image.fromarray(colours[mask_of_scene()]), root / f"{split}_labels" / f"{index}_L.png")
    lines = {
        "class_dict.csv": ["name,r,g,b", *(f"{n},{r},{g},{b}" for n, (r, g, b) in zip(NAMES, COLOURS, strict=True))],
        "label_colors.txt": [f"{r} {g} {b}\t{n}" for n, (r, g, b) in zip(NAMES, COLOURS, strict=True)],
        "labelmap.txt": [
            "# label:color_rgb:parts:actions",
            *(f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(NAMES, COLOURS, strict=True)),
        ],
    }[table]
    (root / table).write_text("\n".join(lines) + "\n")
    return root


def with_coco(root: Path, n: int = 3) -> Path:
    """A JSON file for each split, photos in its folder."""
    for split in ("train", "val"):
        images, annotations = [], []
        for index in range(n):
            save(photo_of(index), root / split / f"{index}.png")
            images.append({"id": index + 1, "file_name": f"{index}.png", "width": SIZE[0], "height": SIZE[1]})
            for label, corners in OUTLINES:
                xs, ys = zip(*corners, strict=True)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": 10 * label,
                        "iscrowd": 0,
                        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                        "segmentation": [[value for corner in corners for value in corner]],
                    }
                )
        categories = [{"id": 10 * index, "name": NAMES[index]} for index in (1, 2)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def with_yolo(root: Path, n: int = 3) -> Path:
    """``images/`` and ``labels/`` with a text file each, corners as shares of the sides."""
    for split in ("train", "val"):
        for index in range(n):
            save(photo_of(index), root / split / "images" / f"{index}.png")
            lines = [
                " ".join([str(label - 1), *(f"{x / SIZE[0]:.8f} {y / SIZE[1]:.8f}" for x, y in corners)])
                for label, corners in OUTLINES
            ]
            file = root / split / "labels" / f"{index}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("train: train/images\nnames:\n  0: cat\n  1: dog\nnc: 2\n")
    return root
