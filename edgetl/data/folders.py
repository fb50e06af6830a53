"""A data set as folders of image files: one folder per label, or folders of splits with these inside.

Every image is in a split, or counted as left out, or there is a `DataError`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from edgetl.data.image_files import ImageFile, Tree, label_folders, walk
from edgetl.data.split_words import ALL, split_of, splits_among
from edgetl_runtime.errors import DataError
from edgetl_runtime.escaping import printable

__all__ = [
    "LOOSE",
    "MASK_FOLDERS",
    "PHOTO_FOLDERS",
    "Files",
    "Found",
    "folders_of_splits",
    "label_name",
    "read_folders",
]

Files: TypeAlias = Mapping[str, Sequence[ImageFile]]
"""Label (a folder name) -> image files."""

LOOSE = "images in no label folder"
_OUTSIDE = "images outside of the split folders"
_OF_MASKS = "masks"
PHOTO_FOLDERS = ("images", "image", "imgs", "jpegimages", "photos")
MASK_FOLDERS = ("masks", "mask", "segmentationclass", "annotations", "labels", "gt")
_CSV = "or say it in a CSV: path,label,split"
_SHOWN = 6


@dataclass(frozen=True)
class Found:
    """Images by split and label; the one split is ``"all"`` where none are told apart.

    ``left_out`` counts the files that are in no split, by ending or by where they lie; ``remarks`` are sentences on
    what a reader should know of the rest.
    """

    splits: dict[str, Files]
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: tuple[str, ...] = ()


def label_name(name: str) -> str:
    """A label as it is called here: composed letters (NFC), for one system writes what another decomposes."""
    return unicodedata.normalize("NFC", name)


def folders_of_splits(path: Path) -> dict[str, Path]:
    """Split -> its folder directly in `path`; empty where there is none. Raises `DataError` for two of one split."""
    folders = {folder.name: folder for folder in label_folders(path)}
    named = splits_among(folders, str(path), fix=f"join them by hand, rename one, {_CSV}")
    return {split: folders[name] for split, name in named.items()}


def read_folders(path: Path, channels: int, *, labelled: bool) -> Found:
    """What lies in the folder `path`. Where not `labelled`, images are grouped by the folder that they lie in.

    Raises `DataError` for folders of splits beside other folders with images, and for a folder that is called like a
    split inside of a label folder: is it a label, or a part of the data?
    """
    parts = folders_of_splits(path)
    if not parts:
        tree = walk(path, channels=channels)
        _refuse_splits_inside(tree, path, depth=2)
        files, others, remarks = _grouped(tree, path, labelled=labelled)
        return Found({ALL: files}, tree.others + others, remarks)
    left_out = _beside(path, parts, channels)
    splits: dict[str, Files] = {}
    all_remarks: list[str] = []
    for split, folder in parts.items():
        tree = walk(folder, channels=channels)
        _refuse_splits_inside(tree, folder, depth=1)
        splits[split], others, remarks = _grouped(tree, folder, labelled=labelled)
        left_out += tree.others + others
        all_remarks += remarks
    return Found(splits, left_out, tuple(all_remarks))


def _grouped(tree: Tree, root: Path, *, labelled: bool) -> tuple[Files, Counter[str], tuple[str, ...]]:
    """Images by label, or by folder, what is left out of them, and remarks."""
    if not labelled:
        return (*_unlabelled(tree), ())
    files, loose, remarks = _by_label(tree, root)
    return files, Counter({LOOSE: loose} if loose else {}), remarks


def _beside(path: Path, parts: Mapping[str, Path], channels: int) -> Counter[str]:
    """What is left out beside folders of splits. Raises `DataError` for other folders with images."""
    loose = walk(path, channels=channels, deep=False)
    left_out = loose.others + Counter({_OUTSIDE: len(loose.images)} if loose.images else {})
    with_images = []
    for folder in label_folders(path):
        if folder not in parts.values():
            tree = walk(folder, channels=channels)
            left_out += tree.others
            with_images += [folder.name] if tree.images else []
    if with_images:
        splits = ", ".join(folder.name for folder in parts.values())
        raise DataError(
            f"{path} has folders of splits ({splits}) beside others with images ({_some(with_images)})",
            fix=f"move one kind elsewhere; if {next(iter(parts.values())).name} is a label, {_CSV.removeprefix('or ')}",
        )
    return left_out


def _refuse_splits_inside(tree: Tree, root: Path, *, depth: int) -> None:
    """`DataError` for images below a folder that is called like a split, `depth` or more folders below `root`."""
    seen: dict[str, None] = {}
    wrapped = True
    for image in tree.images:
        inside = image.relative_to(root).parts[:-1]
        where = next((i for i, name in enumerate(inside) if i >= depth - 1 and split_of(name)), None)
        wrapped = wrapped and where == 1
        if where is not None:
            seen["/".join(inside[: where + 1])] = None
    if not seen:
        return
    outer = {name.partition("/")[0] for name in seen}
    if depth == 2 and wrapped and len(outer) == 1:  # all is in one folder more than was thought
        fix = f"name the folder with the splits in it: {root / outer.pop()}"
    else:
        fix = f"put splits outside and labels inside (train/roses), rename folders that are labels, {_CSV}"
    raise DataError(f"{root} has folders called like splits inside of label folders: {_some(list(seen))}", fix=fix)


def _by_label(tree: Tree, root: Path) -> tuple[Files, int, tuple[str, ...]]:
    """Images by the folder of `root` that they are below, how many are below none, and remarks."""
    files: dict[str, list[ImageFile]] = {}
    written: dict[str, set[str]] = {}
    for folder in label_folders(root):
        files.setdefault(label_name(folder.name), [])
        written.setdefault(label_name(folder.name), set()).add(folder.name)
    loose, deeper = 0, Counter[str]()
    for image in tree.images:
        inside = image.relative_to(root).parts
        if len(inside) == 1:
            loose += 1
            continue
        files[label_name(inside[0])].append(image)
        deeper[inside[0]] += len(inside) > 2
    remarks = []
    if inner := [f"{name} ({n})" for name, n in deeper.items() if n]:
        remarks.append(f"images in folders inside of a label folder have its label: {_some(inner)}")
    if joined := [name for name, names in written.items() if len(names) > 1]:
        where = printable(root.resolve().name)
        remarks.append(f"folders of {where} that differ in Unicode normalisation alone are one label: {_some(joined)}")
    return files, loose, tuple(remarks)


def _unlabelled(tree: Tree) -> tuple[Files, Counter[str]]:
    """Images by their folder, without masks: images in a folder that is called so beside one of photos."""
    kept, masks = [], 0
    photos = {folder.parent for folder in {image.parent for image in tree.images} if _is(folder, PHOTO_FOLDERS)}
    for image in tree.images:
        if _is(image.parent, MASK_FOLDERS) and image.parent.parent in photos:
            masks += 1
        else:
            kept.append(image)
    return _by_folder(kept), Counter({_OF_MASKS: masks} if masks else {})


def _is(folder: Path, names: Sequence[str]) -> bool:
    return folder.name.casefold() in names


def _by_folder(images: Sequence[Path]) -> Files:
    folders: dict[str, list[ImageFile]] = {}
    for image in sorted(images, key=lambda image: (str(image.parent), image)):
        folders.setdefault(str(image.parent), []).append(image)
    return folders


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
