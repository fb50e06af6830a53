"""Photos with masks in a Hugging Face data set on disk: two columns of images, of which one has the masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetl.data.huggingface import SavedImage, load_saved
from edgetl.data.split_words import ALL, split_of, splits_among
from edgetl.tasks.segmentation.label_files import MaskLabels, find_labels
from edgetl.tasks.segmentation.mask_files import MaskFile
from edgetl.tasks.segmentation.pairs import Found, Pair
from edgetl_runtime.errors import DataError

__all__ = ["read_saved_masks"]

_MASKS = ("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "semantic_mask", "gt")


def read_saved_masks(path: Path, known: Sequence[str]) -> Found:
    """What lies in a folder that ``save_to_disk`` wrote; ``labels.txt`` in it names the values of the masks.

    Args:
        path: The folder.
        known: Names of the labels where the folder has none, those of a model; may be empty.

    Raises:
        DataError: There are no two columns of images, or no names.
        MissingDependency: The library is not installed.
    """
    labels = find_labels([path]) or (MaskLabels(tuple(known)) if known else None)
    if labels is None:
        raise DataError(
            f"{path} has no labels.txt: what do the values of its masks mean?",
            fix="labels.txt in that folder, one name a line, that of value 0 first",
        )
    names = labels

    def pairs(where: Path, rows: Any) -> list[Pair]:
        return _pairs(rows, where, names)

    found = load_saved(path, pairs)
    if list(found) == [""]:
        return Found({ALL: found[""]}, labels.names, Counter(), labels.remarks)
    unknown = next((name for name in found if split_of(name) is None), None)
    if unknown is not None:
        raise DataError(f"{path} has a split {unknown!r}", fix="rename it to train, val or test")
    named = splits_among(found, str(path), fix="rename one, or save the one that is meant: save_to_disk")
    return Found({split: found[name] for split, name in named.items()}, labels.names, Counter(), labels.remarks)


def _pairs(rows: Any, where: Path, labels: MaskLabels) -> list[Pair]:
    # Damage in what says where a value begins and ends would end the process.
    rows.data.validate(full=True)
    images = [name for name, kind in rows.features.items() if type(kind).__name__ == "Image"]
    masks = [name for name in images if name.casefold() in _MASKS]
    if len(images) != 2 or len(masks) != 1:
        raise DataError(
            f"{where} has the columns {', '.join(rows.features)}: which are photos, and which their masks?",
            fix="two columns of type Image, one of them called mask",
        )
    photo = next(name for name in images if name not in masks)
    columns = {}
    for name in (photo, masks[0]):
        kind = type(rows.features[name])
        columns[name] = rows.select_columns([name]).cast_column(name, kind(decode=False))
    return [
        Pair(
            SavedImage(columns[photo], photo, index, where),
            MaskFile(SavedImage(columns[masks[0]], masks[0], index, where), len(labels.names), labels.colours),
        )
        for index in range(len(rows))
    ]
