"""Boxes from COCO's JSON, one file for each split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgetl.data.coco import CocoFile, CocoImage, find_coco, read_coco
from edgetl.data.folders import folders_of_splits
from edgetl.data.image_files import label_folders
from edgetl.data.split_words import split_of
from edgetl.tasks.detection.formats.annotated import ALL, Annotated, Box, Photo, Splits
from edgetl.tasks.detection.matching import CROWD
from edgetl_runtime.errors import DataError

__all__ = ["find_files", "read_coco_splits"]

_DATA = "data"
"""The folder of photos beside ``labels.json``, as FiftyOne has it."""
_MAIN = "instances"
"""What the file with the boxes is called where there are others, of captions or keypoints."""


def find_files(path: Path) -> dict[str, Path]:
    """Split -> JSON file of `path`, which may be the file itself; empty where there is none.

    They are looked for in the folder, in ``annotations``, and in the folders of splits. Raises `DataError` where two
    are of one split.
    """
    if path.is_file():
        return {ALL: path} if path.suffix.lower() == ".json" else {}
    folders = [path, path / "annotations", *folders_of_splits(path).values()]
    files = [file for folder in folders if folder.is_dir() for file in find_coco(folder)]
    if any(file.stem.startswith(_MAIN) for file in files):
        files = [file for file in files if file.stem.startswith(_MAIN)]
    found: dict[str, Path] = {}
    for file in files:
        split = _split_of(file, path)
        if split in found:
            raise DataError(
                f"{found[split]} and {file} are both of the split {split!r}", fix="move one of them elsewhere"
            )
        found[split] = file
    if ALL in found and len(found) > 1:
        raise DataError(
            f"the name of {found[ALL]} says no split, those of others do", fix="train, val or test in every name"
        )
    return found


def read_coco_splits(path: Path, files: dict[str, Path]) -> Splits:
    """What the files of `find_files` hold, with the photos that they name. Raises `DataError`."""
    return {split: _annotated(path, split, read_coco(file, outlines=False)) for split, file in files.items()}


def _split_of(file: Path, root: Path) -> str:
    for word in re.split(r"[^a-z]+", file.stem.casefold()):
        if split := split_of(word):
            return split
    inside = None if file.parent == root else split_of(file.parent.name)
    return inside or ALL


def _annotated(root: Path, split: str, content: CocoFile) -> Annotated:
    folder = _folder_of_photos(root, split, content)
    photos = []
    for image in content.images:
        file = folder / image.file_name
        if not _is_below(file, folder) or not file.is_file():
            raise DataError(f"{content.where(image)}: there is no photo {image.file_name!r:.200} in {folder}",
                            fix="add the photo, or remove it from images")  # fmt: skip
        boxes = [
            Box(one.box, content.labels[one.label], partial(content.where, one), CROWD if one.crowd else 0)
            for one in image.annotations
        ]
        photos.append(Photo(file, image.size, boxes, partial(content.where, image)))
    return Annotated(content.labels, photos)


def _folder_of_photos(root: Path, split: str, content: CocoFile) -> Path:
    """The folder that the file names of `content` are relative to: the first that has the first photo."""
    beside = content.path.parent
    base = root if root.is_dir() else beside
    named = re.sub(rf"^(.*_)?{_MAIN}_|^_", "", content.path.stem)
    tried = [beside, beside / named, base / named, *_of_split(base, split), base / "images" / named]
    tried += [*_of_split(base / "images", split), base / "images", base, beside.parent / named]
    tried += [folder / "images" for folder in (beside / named, *_of_split(base, split))]
    tried += [beside / _DATA, base / _DATA]
    if not content.images:
        return beside
    first: CocoImage = content.images[0]
    for folder in tried:
        if (folder / first.file_name).is_file():
            return folder
    raise DataError(
        f"{content.where(first)}: there is no photo {first.file_name!r:.200} beside {content.path}, nor in {tried[1]}",
        fix="put the photos into the folder of the JSON file, into images beside it, or into train and val beside it",
    )


def _of_split(folder: Path, split: str) -> Sequence[Path]:
    if not folder.is_dir():
        return ()
    return [inside for inside in label_folders(folder) if split_of(inside.name) == split]


def _is_below(file: Path, folder: Path) -> bool:
    """Annotations that somebody hands over must not name files elsewhere."""
    return ".." not in file.relative_to(folder).parts if file.is_relative_to(folder) else False
