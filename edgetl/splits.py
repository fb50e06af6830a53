"""Where labelled images lie, by split: folders, a CSV file, WebDataset shards, a Hugging Face data set on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from edgetl.photos import ImageFile, find_images, label_folders
from edgetl.saved_dataset import is_saved_dataset, read_saved_dataset
from edgetl.shards import find_shards, read_shards
from edgetl.table import SPLITS, read_table
from edgetl_runtime.errors import DataError

__all__ = ["Files", "find_photos", "read_splits", "validation_files"]

Files: TypeAlias = Mapping[str, Sequence[ImageFile]]
"""Label (a folder name) -> image files."""

_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def read_splits(path: Path, channels: int) -> dict[str, Files]:
    """Split -> label -> files; the one split is ``"all"`` where none are told apart.

    Raises `DataError` when `path` is nothing that is known, or its splits are not.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        return dict(read_table(path))
    stored = _stored(path, channels, labelled=True)
    if stored is not None:
        return stored
    _require_folder(path)
    inside = _split_folders(path)
    if not inside:
        return {"all": _label_files(path, channels)}
    return {split: _label_files(folder, channels) for split, folder in inside.items()}


def validation_files(path: Path, channels: int) -> Files:
    """The validation split of `path`, or all of it. Raises `DataError` when it has only others."""
    found = read_splits(path, channels)
    for split in ("all", "val"):
        if split in found:
            return found[split]
    raise DataError(f"{path} has {' and '.join(found)} but no val", fix="name the folder with the validation photos")


def find_photos(path: Path, channels: int) -> Files:
    """Images for which no label is needed: those of the training split when there is one, by what lies together.

    Raises `DataError` when there are none.
    """
    stored = _stored(path, channels, labelled=False)
    if stored is not None:
        return stored["train"] if "train" in stored else _merged(list(stored.values()))
    _require_folder(path)
    root = path / "train" if (path / "train").is_dir() else path
    files = find_images(root, channels=channels)
    if not files:
        raise DataError(f"no images in {root}", fix="name a folder with photos")
    folders: dict[str, list[Path]] = {str(file.parent): [] for file in files}
    for file in files:
        folders[str(file.parent)].append(file)
    return folders


def _stored(path: Path, channels: int, *, labelled: bool) -> dict[str, Files] | None:
    """What is no folder of image files; None for a path that is one, or nothing."""
    if is_saved_dataset(path):
        saved = read_saved_dataset(path, labelled=labelled)
        return {_split(name, str(path)): rows for name, rows in saved.items()}
    shards = find_shards(path)
    if shards:
        by_split = _shards_by_split(shards, path)
    else:
        by_split = {split: found for split, folder in _split_folders(path).items() if (found := find_shards(folder))}
    if not by_split:
        return None
    return {split: read_shards(found, channels=channels, labelled=labelled) for split, found in by_split.items()}


def _shards_by_split(shards: Sequence[Path], path: Path) -> dict[str, list[Path]]:
    """By the word of their names that is a split (``flowers-train-000.tar``), when all of them have one."""
    found: dict[str, list[Path]] = {}
    for shard in shards:
        words = [word for word in shard.stem.lower().replace("_", "-").split("-") if word and word in SPLITS]
        found.setdefault(SPLITS[words[0]] if words else "all", []).append(shard)
    if "all" in found and len(found) > 1:
        raise DataError(
            f"the names of some shards of {path} say a split, those of others do not: {found['all'][0].name}",
            fix="train, val or test in every name, or in none",
        )
    return found


def _split(name: str, where: str) -> str:
    if name.lower() not in SPLITS:
        raise DataError(f"{where} has a split {name!r}", fix=f"rename it to one of: {', '.join(filter(None, SPLITS))}")
    return SPLITS[name.lower()]


def _merged(parts: Sequence[Files]) -> Files:
    labels = {label: None for part in parts for label in part}
    return {label: [file for part in parts for file in part.get(label, ())] for label in labels}


def _split_folders(path: Path) -> dict[str, Path]:
    folders = label_folders(path) if path.is_dir() else []
    return {_SPLIT_FOLDERS[f.name.lower()]: f for f in folders if f.name.lower() in _SPLIT_FOLDERS}


def _label_files(folder: Path, channels: int) -> Files:
    return {label.name: find_images(label, channels=channels) for label in label_folders(folder)}


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        what = "is not a folder, a .csv file or a .tar file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}", fix="name a folder with one folder per label, or a CSV file")
