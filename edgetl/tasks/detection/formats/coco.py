"""Boxes from COCO's JSON, one file for each split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgetl.data.coco import CocoFile, read_coco
from edgetl.data.coco_files import coco_photos
from edgetl.tasks.detection.formats.annotated import Annotated, Box, Photo, Splits
from edgetl.tasks.detection.matching import CROWD

__all__ = ["read_coco_splits"]


def read_coco_splits(path: Path, files: dict[str, Path]) -> Splits:
    """What the files of `edgetl.data.coco_files` hold, with the photos that they name. Raises `DataError`."""
    return {split: _annotated(path, read_coco(file, outlines=False)) for split, file in files.items()}


def _annotated(root: Path, content: CocoFile) -> Annotated:
    photos = []
    for image, file in zip(content.images, coco_photos(root, content), strict=True):
        boxes = [
            Box(one.box, content.labels[one.label], partial(content.where, one), CROWD if one.crowd else 0)
            for one in image.annotations
        ]
        photos.append(Photo(file, image.size, boxes, partial(content.where, image)))
    return Annotated(content.labels, photos)
