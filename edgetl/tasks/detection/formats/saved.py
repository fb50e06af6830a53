"""Boxes from what Hugging Face's ``save_to_disk`` wrote: an image column, and a column of objects.

The objects of a row are ``bbox`` - left, top, width, height in pixels, as data sets on the Hub have it - with a label
each: ``category``, ``categories``, ``label`` or ``labels``, as ClassLabel or as text. ``iscrowd`` and ``difficult`` are
what COCO and VOC mean by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgetl.data.folders import label_name
from edgetl.data.huggingface import SavedImage, load_saved
from edgetl.data.split_words import ALL, split_of
from edgetl.tasks.detection.formats.annotated import Annotated, Box, Photo, Splits
from edgetl.tasks.detection.matching import CROWD, DIFFICULT
from edgetl_runtime.errors import DataError

__all__ = ["read_saved_splits"]

_BOXES = ("bbox", "boxes", "bboxes")
_FLAGS = {"iscrowd": CROWD, "is_crowd": CROWD, "difficult": DIFFICULT, "is_difficult": DIFFICULT}
_LABELS = ("category", "categories", "label", "labels", "class", "category_id")


def read_saved_splits(path: Path) -> Splits:
    """The photos of a saved data set. Raises `DataError`, or `MissingDependency` without the library."""
    splits: dict[str, Annotated] = {}
    for name, annotated in load_saved(path, _annotated).items():
        split = split_of(name) if name else ALL
        if split is None or split in splits:
            raise DataError(f"{path} has a split {name!r}", fix="rename it to train, val or test")
        splits[split] = annotated
    return splits


def _annotated(where: Path, rows: Any) -> Annotated:
    import datasets

    rows.data.validate(full=True)  # damage in what says where a value begins and ends would end the process
    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    holders = [name for name, kind in rows.features.items() if _inner(kind) and set(_inner(kind)) & set(_BOXES)]
    if len(images) != 1 or len(holders) != 1:
        raise DataError(
            f"{where} has {len(images)} image columns and {len(holders)} columns of objects with a bbox; its columns: "
            f"{', '.join(rows.features)}",
            fix="one of each: image, and objects with bbox and category",
        )
    features = _inner(rows.features[holders[0]])
    boxes = next(name for name in _BOXES if name in features)
    labels = next((name for name in _LABELS if name in features), None)
    if labels is None:
        raise DataError(f"{where}: {holders[0]} has no labels; it has {', '.join(features)}", fix="call them category")
    names = _names(features[labels])
    lazily = rows.select_columns(images).cast_column(images[0], datasets.Image(decode=False))
    photos = []
    for index, objects in enumerate(rows[holders[0]]):
        row = partial(_at, where, index)
        source = SavedImage(lazily, images[0], index, where)
        photos.append(Photo(source, None, _boxes(objects, boxes, labels, names, row), row))
    known = names or sorted({box.label for photo in photos for box in photo.boxes})
    return Annotated(tuple(known), photos, (f"boxes of {where.name} are read as left, top, width, height in pixels",))


def _inner(kind: Any) -> Mapping[str, Any]:
    """The features of the objects in a column: a list of dictionaries, or a dictionary of lists."""
    inner = getattr(kind, "feature", kind)
    inner = inner[0] if isinstance(inner, list) and inner else inner
    return inner if isinstance(inner, Mapping) else {}


def _names(kind: Any) -> list[str]:
    inner = getattr(kind, "feature", kind)
    inner = inner[0] if isinstance(inner, list) and inner else inner
    return [label_name(name) for name in getattr(inner, "names", None) or ()]


def _boxes(objects: Any, boxes: str, labels: str, names: Sequence[str], row: Any) -> list[Box]:
    if isinstance(objects, list):
        objects = {key: [one[key] for one in objects] for key in (objects[0] if objects else ())}
    objects = objects or {}
    corners, kinds = objects.get(boxes) or [], objects.get(labels) or []
    if len(corners) != len(kinds):
        raise DataError(f"{row()}: {len(corners)} boxes and {len(kinds)} labels", fix="save it again: save_to_disk")
    found = []
    for box, kind, flag in zip(corners, kinds, _flags(objects, len(corners)), strict=True):
        if box is None or len(box) != 4 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
            raise DataError(f"{row()}: bbox is {box!r:.80}, not four numbers", fix="left, top, width, height")
        if names and (not isinstance(kind, int) or not 0 <= kind < len(names)):
            raise DataError(f"{row()}: label {kind!r:.40} of {len(names)} names", fix=f"0 to {len(names) - 1}")
        left, top, width, height = map(float, box)
        label = names[kind] if names else label_name(str(kind).strip())
        found.append(Box((left, top, left + width, top + height), label, row, flag))
    return found


def _flags(objects: Mapping[str, Any], n: int) -> list[int]:
    """Of `n` boxes, by the columns that say so; a crowd that is difficult is a crowd."""
    flags = [0] * n
    for name, flag in _FLAGS.items():
        values = objects.get(name) or ()
        if len(values) == n:
            flags = [own or (flag if value == 1 else 0) for own, value in zip(flags, values, strict=True)]
    return flags


def _at(where: Path, index: int) -> str:
    return f"{where}, row {index}"
