"""Where photos and their masks lie: the folders of a data set, by split.

- ``images/`` and ``masks/`` side by side: in the folder itself, in folders of splits, or with folders of splits inside;
- CamVid's: ``train/`` beside ``train_labels/`` or ``trainannot/``;
- COCO's: a JSON file for each split, with outlines;
- YOLO's: ``images/`` beside ``labels/`` with a text file each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetl.data.coco_files import coco_files
from edgetl.data.folders import MASK_FOLDERS, PHOTO_FOLDERS, folders_of_splits
from edgetl.data.image_files import image_suffixes, label_folders
from edgetl.data.split_words import ALL
from edgetl_runtime.errors import DataError

__all__ = ["Layout", "Part", "find_layout"]

Kind = Literal["masks", "coco", "yolo"]

_OUTLINES = ("labels",)
_BESIDE = ("_masks", "_mask", "_labels", "_label", "annot", "_annot", "_annotations")
"""What follows the name of a split in the name of the folder of its masks."""


@dataclass(frozen=True)
class Part:
    """The folder of the photos of one split, and its masks: a folder, or a JSON file of outlines.

    A JSON file names its photos itself: then ``photos`` is what was given as the data set.
    """

    photos: Path
    masks: Path


@dataclass(frozen=True)
class Layout:
    """``parts`` by split; the one split is ``"all"`` where none are told apart. ``folders`` may have label names."""

    kind: Kind
    parts: Mapping[str, Part]
    folders: tuple[Path, ...]


def find_layout(path: Path) -> Layout:
    """How the data set in the folder `path` is laid out, or in one file of COCO's format.

    Of several the first counts: masks, then COCO, then YOLO. Raises `DataError` for a folder that is none.
    """
    if path.is_file() and (outlines := coco_files(path)):
        return _of_coco(path, outlines)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}", fix="name a folder with images/ and masks/")
    splits = folders_of_splits(path)
    for kind, names in (("masks", MASK_FOLDERS), ("yolo", _OUTLINES)):
        ending = ".txt" if kind == "yolo" else ""
        parts = _side_by_side(path, splits, names, ending=ending) or (_named_alike(path, splits) if not ending else {})
        if parts:
            missing = [folder.name for split, folder in splits.items() if split not in parts]
            if missing and ALL not in parts:
                raise DataError(f"{path / missing[0]} has no masks", fix="images/ and masks/ in every split")
            return Layout("yolo" if ending else "masks", parts, (path, *splits.values()))
        if kind == "masks" and (outlines := coco_files(path)):
            return _of_coco(path, outlines)
    raise DataError(
        f"{path} has no photos with masks",
        fix="images/ and masks/ with the same names, in it or in train/ and val/; or COCO's JSON beside the photos",
    )


def _side_by_side(path: Path, splits: Mapping[str, Path], masks: Sequence[str], *, ending: str) -> dict[str, Part]:
    """``images/`` beside a folder of masks: in every split, in `path`, or with splits inside of both."""
    found = {split: pair for split, folder in splits.items() if (pair := _pair(folder, masks, ending))}
    if found:
        return {split: Part(photos, targets) for split, (photos, targets) in found.items()}
    whole = _pair(path, masks, ending)
    if whole is None:
        return {}
    photos, targets = whole
    inside, beside = folders_of_splits(photos), folders_of_splits(targets)
    if not inside:
        return {ALL: Part(photos, targets)}
    lacking = [folder for split, folder in inside.items() if split not in beside]
    if lacking:
        raise DataError(
            f"{photos} has {lacking[0].name}, which {targets} has not", fix="the same folders of splits in both"
        )
    return {split: Part(folder, beside[split]) for split, folder in inside.items()}


def _pair(folder: Path, masks: Sequence[str], ending: str) -> tuple[Path, Path] | None:
    """The folders of photos and of masks directly in `folder`; masks are images, or text where `ending` says so."""
    inside = {item.name.casefold(): item for item in label_folders(folder)}
    photos = next((inside[name] for name in PHOTO_FOLDERS if name in inside), None)
    targets = next((inside[name] for name in masks if name in inside and _holds(inside[name], ending)), None)
    return None if photos is None or targets is None else (photos, targets)


def _holds(folder: Path, ending: str) -> bool:
    """Whether a file below `folder` is a text, where `ending` is ``.txt``, or else an image: tools leave others there,
    such as ``train.cache``."""
    wanted = (ending,) if ending else image_suffixes(3)
    return any(
        file.suffix.lower() in wanted and not file.name.startswith(".") and file.is_file() for file in folder.rglob("*")
    )


def _named_alike(path: Path, splits: Mapping[str, Path]) -> dict[str, Part]:
    """``train/`` beside ``train_labels/``."""
    inside = {item.name.casefold(): item for item in label_folders(path)}
    parts = {}
    for split, folder in splits.items():
        beside = next((inside[name] for end in _BESIDE if (name := folder.name.casefold() + end) in inside), None)
        if beside is not None:
            parts[split] = Part(folder, beside)
    return parts


def _of_coco(path: Path, files: Mapping[str, Path]) -> Layout:
    """A file alone may name any split: its photos are all there are."""
    parts = {split if len(files) > 1 else ALL: Part(path, file) for split, file in files.items()}
    return Layout("coco", parts, (path,))
