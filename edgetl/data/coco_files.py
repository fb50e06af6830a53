"""Where the files of COCO's format lie in a data set, one for each split, and the photos that they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgetl.data.coco import CocoFile, CocoImage, find_coco
from edgetl.data.folders import folders_of_splits
from edgetl.data.image_files import label_folders
from edgetl.data.split_words import ALL, split_of
from edgetl_runtime.errors import DataError

__all__ = ["coco_files", "coco_photos"]

_MAIN = "instances"
"""What the file with the objects is called where there are others, of captions or keypoints."""
_ANNOTATIONS = "annotations"
_DATA = "data"
"""The folder of photos beside ``labels.json``, as FiftyOne has it."""


def coco_files(path: Path) -> dict[str, Path]:
    """Split -> JSON file of `path`, which may be the file itself; empty where there is none.

    They are looked for in the folder, in ``annotations``, and in the folders of splits. Raises `DataError` where two
    are of one split.
    """
    if path.is_file():
        return {ALL: path} if path.suffix.lower() == ".json" else {}
    folders = [path, path / _ANNOTATIONS, *folders_of_splits(path).values()]
    files = [file for folder in folders if folder.is_dir() for file in find_coco(folder)]
    if any(file.stem.startswith(_MAIN) for file in files):
        files = [file for file in files if file.stem.startswith(_MAIN)]
    by_split: dict[str, Path] = {}
    for file in files:
        split = _split_of(file, path)
        if split in by_split:
            raise DataError(
                f"{by_split[split]} and {file} are both of the split {split!r}", fix="move one of them elsewhere"
            )
        by_split[split] = file
    if ALL in by_split and len(by_split) > 1:
        raise DataError(
            f"the name of {by_split[ALL]} says no split, those of others do", fix="train, val or test in every name"
        )
    return by_split


def coco_photos(root: Path, content: CocoFile) -> list[Path]:
    """The photos that a file names.

    Args:
        root: The folder of the data set, or the JSON file itself.
        content: Of the file.

    Returns:
        One for each of its images, in their order, all relative to the folder that has the first of them.

    Raises:
        DataError: A photo is not there, or its name leads out of the folder.
    """
    folder = _folder_of_photos(root, content)
    photos = []
    for image in content.images:
        photo = folder / image.file_name
        if not _is_below(photo, folder):
            raise DataError(
                f"{content.where(image)}: {image.file_name!r:.200} leads out of {folder}",
                fix="name photos by their place inside the folder of the data set",
            )
        if not photo.is_file():
            raise DataError(
                f"{content.where(image)}: there is no photo {image.file_name!r:.200} in {folder}",
                fix="add the photo, or remove it from images",
            )
        photos.append(photo)
    return photos


def _split_of(file: Path, root: Path) -> str:
    for word in re.split(r"[^a-z]+", file.stem.casefold()):
        if split := split_of(word):
            return split
    inside = None if file.parent == root else split_of(file.parent.name)
    return inside or ALL


def _folder_of_photos(root: Path, content: CocoFile) -> Path:
    """The folder that the file names of `content` are relative to: the first that has the first photo."""
    if not content.images:
        return content.path.parent
    first: CocoImage = content.images[0]
    tried = _likely_folders(root, content.path)
    for folder in tried:
        if (folder / first.file_name).is_file():
            return folder
    raise DataError(
        f"{content.where(first)}: there is no photo {first.file_name!r:.200} beside {content.path}, nor in {tried[1]}",
        fix="put the photos into the folder of the JSON file, into images beside it, or into train and val beside it",
    )


def _likely_folders(root: Path, file: Path) -> list[Path]:
    """The likeliest first, all inside of the data set. Where only a file or its folder was named, that may be the
    folder above it, too."""
    beside, split = file.parent, _split_of(file, root)
    named = re.sub(rf"^(.*_)?{_MAIN}_|^_", "", file.stem)
    tried = [beside, beside / named]
    inside = root.is_dir() and root.resolve().name.casefold() != _ANNOTATIONS
    for base in [root] if inside else [beside, beside.parent]:
        tried += [base / named, *_of_split(base, split), base / "images" / named]
        tried += [*_of_split(base / "images", split), base / "images", base]
        tried += [folder / "images" for folder in (base / named, *_of_split(base, split))]
    return [*tried, beside / _DATA, root / _DATA]


def _of_split(folder: Path, split: str) -> Sequence[Path]:
    if not folder.is_dir():
        return ()
    return [inside for inside in label_folders(folder) if split_of(inside.name) == split]


def _is_below(file: Path, folder: Path) -> bool:
    """Annotations that somebody hands over must not name files elsewhere."""
    return ".." not in file.relative_to(folder).parts if file.is_relative_to(folder) else False
