"""Where photos and their masks lie: the folders of a data set, by split.

- ``images/`` and ``masks/`` side by side: in the folder itself, in folders of splits, or with folders of splits inside;
- CamVid's: ``train/`` beside ``train_labels/`` or ``trainannot/``;
- COCO's: a JSON file for each split, with outlines; YOLO's: ``images/`` beside ``labels/`` with a text file each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetl.data.coco import find_coco
from edgetl.data.folders import MASK_FOLDERS, PHOTO_FOLDERS, folders_of_splits
from edgetl.data.image_files import label_folders
from edgetl.data.split_words import SPLIT_WORDS, split_of
from edgetl_runtime.errors import DataError

__all__ = ["Layout", "Part", "find_layout"]

Kind = Literal["masks", "coco", "yolo"]

_OUTLINES = ("labels",)
_BESIDE = ("_masks", "_mask", "_labels", "_label", "annot", "_annot", "_annotations")
"""What follows the name of a split in the name of the folder of its masks."""


@dataclass(frozen=True)
class Part:
    """The photos of one split, and its masks: a folder, or a JSON file of outlines."""

    photos: tuple[Path, ...]
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
    if path.is_file() and path.suffix.lower() == ".json":
        return _of_coco(path.parent, [path])
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}", fix="name a folder with images/ and masks/")
    splits = folders_of_splits(path)
    for kind, names in (("masks", MASK_FOLDERS), ("yolo", _OUTLINES)):
        ending = ".txt" if kind == "yolo" else ""
        parts = _side_by_side(path, splits, names, ending=ending) or (_named_alike(path, splits) if not ending else {})
        if parts:
            missing = [folder.name for split, folder in splits.items() if split not in parts]
            if missing and "all" not in parts:
                raise DataError(f"{path / missing[0]} has no masks", fix="images/ and masks/ in every split")
            return Layout("yolo" if ending else "masks", parts, (path, *splits.values()))
        if kind == "masks":
            files = [*find_coco(path), *(find_coco(path / "annotations") if (path / "annotations").is_dir() else ())]
            if files:
                return _of_coco(path, files)
    raise DataError(
        f"{path} has no photos with masks",
        fix="images/ and masks/ with the same names, in it or in train/ and val/; or COCO's JSON beside the photos",
    )


def _side_by_side(path: Path, splits: Mapping[str, Path], masks: Sequence[str], *, ending: str) -> dict[str, Part]:
    """``images/`` beside a folder of masks: in every split, in `path`, or with splits inside of both."""
    found = {split: pair for split, folder in splits.items() if (pair := _pair(folder, masks, ending))}
    if found:
        return {split: Part((photos,), targets) for split, (photos, targets) in found.items()}
    whole = _pair(path, masks, ending)
    if whole is None:
        return {}
    photos, targets = whole
    inside, beside = folders_of_splits(photos), folders_of_splits(targets)
    if not inside:
        return {"all": Part((photos,), targets)}
    lacking = [folder for split, folder in inside.items() if split not in beside]
    if lacking:
        raise DataError(
            f"{photos} has {lacking[0].name}, which {targets} has not", fix="the same folders of splits in both"
        )
    return {split: Part((folder,), beside[split]) for split, folder in inside.items()}


def _pair(folder: Path, masks: Sequence[str], ending: str) -> tuple[Path, Path] | None:
    """The folders of photos and of masks directly in `folder`; masks are images, or text where `ending` says so."""
    inside = {item.name.casefold(): item for item in label_folders(folder)}
    photos = next((inside[name] for name in PHOTO_FOLDERS if name in inside), None)
    targets = next((inside[name] for name in masks if name in inside and _holds(inside[name], ending)), None)
    return None if photos is None or targets is None else (photos, targets)


def _holds(folder: Path, ending: str) -> bool:
    """Whether a file below `folder` is a text of outlines, where `ending` is ``.txt``, or else none."""
    files = (file for file in folder.rglob("*") if not file.name.startswith(".") and file.is_file())
    first = next(files, None)
    return first is not None and (first.suffix.lower() in (".txt", ".json", ".xml")) == (ending == ".txt")


def _named_alike(path: Path, splits: Mapping[str, Path]) -> dict[str, Part]:
    """``train/`` beside ``train_labels/``."""
    inside = {item.name.casefold(): item for item in label_folders(path)}
    parts = {}
    for split, folder in splits.items():
        beside = next((inside[name] for end in _BESIDE if (name := folder.name.casefold() + end) in inside), None)
        if beside is not None:
            parts[split] = Part((folder,), beside)
    return parts


def _of_coco(path: Path, files: Sequence[Path]) -> Layout:
    """By the words of their names that are splits; a file alone may have none."""
    found: dict[str, Path] = {}
    for file in files:
        words = {split for word in file.stem.casefold().replace("-", "_").split("_") if (split := split_of(word))}
        if len(words) > 1 or (not words and len(files) > 1):
            raise DataError(
                f"{file}: which split is it?", fix=f"one of {', '.join(SPLIT_WORDS)} in its name: instances_train.json"
            )
        split = words.pop() if words and len(files) > 1 else "all"
        if split in found:
            raise DataError(f"{path} has two files of the {split} split: {found[split].name}, {file.name}", fix="one")
        found[split] = file
    return Layout("coco", {split: Part(_photos_of(path, file), file) for split, file in found.items()}, (path,))


def _photos_of(path: Path, file: Path) -> tuple[Path, ...]:
    """Folders in which the photos of a JSON file may lie, the likeliest first."""
    words = file.stem.casefold().replace("-", "_").split("_")
    names = [word for word in words if split_of(word)]
    roots = (path, path.parent) if file.parent == path or path.name.casefold() == "annotations" else (path,)
    near = [root / name / inner for root in roots for name in names for inner in ("images", "")]
    near += [root / "images" / name for root in roots for name in names]
    near += [folder for root in roots for folder in (root / "images", root)]
    return tuple(folder for folder in near if folder.is_dir())
