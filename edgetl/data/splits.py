"""Where images lie, by split: folders, a CSV file, WebDataset shards, a Hugging Face data set on disk."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgetl.data.csv_table import read_table
from edgetl.data.folders import Files, Found, folders_of_splits, read_folders
from edgetl.data.huggingface import is_saved_dataset, read_saved_dataset
from edgetl.data.image_files import label_folders, walk
from edgetl.data.split_words import SPLIT_WORDS, split_of, splits_among
from edgetl.data.webdataset import find_shards, read_shards
from edgetl_runtime.errors import DataError

__all__ = ["find_photos", "read_splits", "validation_split"]

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


def read_splits(path: Path, channels: int, *, labelled: bool = True) -> Found:
    """The images of `path` by split and label; where not `labelled`, by what lies together.

    Raises `DataError` when `path` is nothing that is known, or its splits are not.
    """
    _check_there(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return Found(dict(read_table(path)))
    if is_saved_dataset(path):
        return _of_saved(path, labelled=labelled)
    shards = _shards_by_split(path, channels)
    if shards:
        return _of_shards(path, shards, channels, labelled=labelled)
    if not path.is_dir():
        what = "is not a folder, a .csv file or a .tar file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}", fix="name a folder with one folder per label, or a CSV file")
    return read_folders(path, channels, labelled=labelled)


def validation_split(found: Found, path: Path) -> Files:
    """The validation split of what was found in `path`, or all of it. Raises `DataError` when it has only others."""
    for split in ("all", "val"):
        if split in found.splits:
            return found.splits[split]
    raise DataError(
        f"{path} has {' and '.join(found.splits)} but no val", fix="name the folder with the validation photos"
    )


def find_photos(path: Path, channels: int, *, labelled: bool = False) -> tuple[Files, Found]:
    """The training split of `path`, or the only one that it has, and all that was found.

    Raises `DataError` when there are several without one to train on, or no images.
    """
    found = read_splits(path, channels, labelled=labelled)
    splits = found.splits
    if "train" not in splits and len(splits) > 1:
        raise DataError(
            f"{path} has {' and '.join(splits)} but no train: which photos?", fix="name the one that is meant"
        )
    return splits["train"] if "train" in splits else next(iter(splits.values())), found


def _check_there(path: Path) -> None:
    """`DataError` for a path that cannot be looked at: too long a name, a folder that is closed."""
    try:
        path.stat()
    except OSError as error:
        if error.errno not in _NOT_THERE:
            shown = str(path) if len(str(path)) < 200 else f"{str(path)[:200]} ..."
            raise DataError(f"cannot look at {shown}: {error.strerror}", fix="check the path") from error
    except ValueError as error:  # a NUL
        raise DataError(f"{str(path)!r} is no path: {error}", fix="check the path") from error


def _of_saved(path: Path, *, labelled: bool) -> Found:
    saved = read_saved_dataset(path, labelled=labelled)
    if list(saved) == [""]:
        return Found({"all": saved[""]})
    words = ", ".join(SPLIT_WORDS)
    unknown = [name for name in saved if split_of(name) is None]
    if unknown:
        raise DataError(f"{path} has a split {unknown[0]!r}", fix=f"rename it to one of: {words}")
    named = splits_among(saved, str(path), fix="rename one, or save the one that is meant: save_to_disk")
    return Found({split: saved[name] for split, name in named.items()})


def _of_shards(path: Path, shards: Mapping[str, Sequence[Path]], channels: int, *, labelled: bool) -> Found:
    splits: dict[str, Files] = {}
    left_out: Counter[str] = Counter()
    for split, files in shards.items():
        splits[split], others = read_shards(files, channels=channels, labelled=labelled)
        left_out += others
    return Found(splits, left_out)


def _shards_by_split(path: Path, channels: int) -> dict[str, list[Path]]:
    """The shards of `path` by its folders of splits, or by the word of their names that is a split.

    Raises `DataError` where image files lie beside shards, or some folders of splits have no shards: which is meant?
    """
    shards = find_shards(path)
    if shards:
        if path.is_dir():
            _refuse_images_beside(path, shards, label_folders(path), channels)
        return _by_word(shards, path)
    parts = folders_of_splits(path) if path.is_dir() else {}
    found = {split: inside for split, folder in parts.items() if (inside := find_shards(folder))}
    if found:
        without = [folder for split, folder in parts.items() if split not in found]
        if without:
            raise DataError(
                f"{path} has shards in {' and '.join(parts[split].name for split in found)}, but none in "
                f"{' and '.join(folder.name for folder in without)}",
                fix="move the folders without shards elsewhere, or make shards of them too",
            )
        others = [folder for folder in label_folders(path) if folder not in parts.values()]
        _refuse_images_beside(path, next(iter(found.values())), others, channels)
        for split, folder in parts.items():
            _refuse_images_beside(folder, found[split], label_folders(folder), channels)
    return found


def _refuse_images_beside(path: Path, shards: Sequence[Path], folders: Sequence[Path], channels: int) -> None:
    beside = [folder.name for folder in folders if walk(folder, channels=channels).images]
    beside += [image.name for image in walk(path, channels=channels, deep=False).images]
    if beside:
        raise DataError(
            f"{path} has shards ({shards[0].name}) beside images that are in none ({', '.join(beside[:5])})",
            fix="name the shards, or move one of both elsewhere",
        )


def _by_word(shards: Sequence[Path], path: Path) -> dict[str, list[Path]]:
    """By the word of their names that is a split (``flowers-train-000.tar``), when all of them have one."""
    found: dict[str, list[Path]] = {}
    used: dict[str, None] = {}
    for shard in shards:
        words = {word for word in shard.stem.casefold().replace("_", "-").split("-") if split_of(word)}
        splits = {split_of(word) for word in words}
        if len(splits) > 1:
            raise DataError(
                f"the name of the shard {shard} says several splits: {', '.join(sorted(words))}", fix="rename it"
            )
        used |= dict.fromkeys(words)
        found.setdefault(next(iter(splits), None) or "all", []).append(shard)
    splits_among(used, f"the shards of {path}", fix="use one name for each split")
    if "all" in found and len(found) > 1:
        raise DataError(
            f"the names of some shards of {path} say a split, those of others do not: {found['all'][0].name}",
            fix="train, val or test in every name, or in none",
        )
    return found
