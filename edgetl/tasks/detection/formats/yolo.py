"""Boxes from YOLO's text files: a line ``label x y width height`` for each object, in shares of the photo's sides.

Names of the labels are in ``data.yaml`` (also called ``dataset.yaml``), or in ``classes.txt``, one a line. A photo's
file lies beside it, or in ``labels`` where the photo lies in ``images``; a photo without one has no object. A split in
``data.yaml`` is a folder, a text file with a photo a line, or a list of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgetl.data.folders import folders_of_splits, label_name
from edgetl.data.image_files import label_folders, walk
from edgetl.data.split_words import ALL, split_of
from edgetl.data.yolo_yaml import YOLO_YAML, read_yolo_yaml
from edgetl.tasks.detection.formats.annotated import Annotated, Box, Photo, Splits, read_text
from edgetl_runtime.errors import DataError

__all__ = ["find_names", "read_yolo_splits"]

_TEXTS = ("classes.txt", "obj.names")


def find_names(path: Path) -> Path | None:
    """The file that names the labels; None where there is none."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    if not path.is_dir():
        return None
    direct = next((path / name for name in (*YOLO_YAML, *_TEXTS) if (path / name).is_file()), None)
    return direct or _beside_labels(path)


def _beside_labels(path: Path) -> Path | None:
    """LabelImg writes the names into every folder of text files, in the order in which they were first used there.

    Raises `DataError` where that order is not the same in all of them.
    """
    holders = [path / "labels", *folders_of_splits(path).values()]
    holders += [inside for folder in holders if folder.is_dir() for inside in label_folders(folder)]
    files = [folder / _TEXTS[0] for folder in holders if (folder / _TEXTS[0]).is_file()]
    for file in files[1:]:
        if read_text(file).split("\n") != read_text(files[0]).split("\n"):
            raise DataError(
                f"{files[0]} and {file} name other labels, or in another order",
                fix=f"number the labels alike in all text files, and put the one {_TEXTS[0]} into {path}",
            )
    return files[0] if files else None


def read_yolo_splits(path: Path, names: Path) -> Splits:
    """The photos of `path`, whose labels a file names. Raises `DataError`."""
    remarks: list[str] = []
    pose = False
    if names.suffix.lower() in (".yaml", ".yml"):
        keys, labels = read_yolo_yaml(names)
        places = _places_named(names, keys, remarks)
        pose = "kpt_shape" in keys
    else:
        labels = tuple(label_name(line.strip()) for line in read_text(names).splitlines() if line.strip())
        places = {}
    if not labels or len(set(labels)) < len(labels):
        raise DataError(
            f"{names} names no labels, or one twice", fix="names: [first, second], in the order of the numbers"
        )
    places = places or {split: [folder] for split, folder in _folders(path if path.is_dir() else path.parent).items()}
    found = {split: _annotated(own, names, labels, pose=pose) for split, own in places.items()}
    first = next(iter(found))
    return {**found, first: replace(found[first], remarks=(*remarks, *found[first].remarks))}


def _places_named(file: Path, keys: dict[str, list[str]], remarks: list[str]) -> dict[str, list[Path]]:
    """Split -> its folders and lists of photos, as the YAML has it. A test that is nowhere is said in `remarks`: tools
    name one whether there is one or not.
    """
    found: dict[str, list[Path]] = {}
    bases = [file.parent / _with_slashes(base) for base in keys.get("path", [])] + [file.parent]
    for key, values in keys.items():
        split = split_of(key)
        for value in values if split is not None else ():
            place = _place(value, bases)
            if place is not None:
                found.setdefault(str(split), []).append(place)
            elif split == "test":
                remarks.append(f"{file.name} names {value!r:.200} as {key}, which is not there: it is left out")
            else:
                raise DataError(
                    f"{file}: {key} is {value!r:.200}, which is neither a folder nor a list of photos",
                    fix="the folder of the photos, or a text file with a photo a line",
                )
    return found


def _place(value: str, bases: Sequence[Path]) -> Path | None:
    """Some write a path relative to another place than the file, so a few are tried."""
    value = _with_slashes(value)
    tried = [base / name for base in bases for name in (value, value.removeprefix("../"))]
    return next((p for p in tried if p.is_dir() or (p.suffix.lower() == ".txt" and p.is_file())), None)


def _with_slashes(path: str) -> str:
    """Folders as Windows separates them."""
    return path.replace("\\", "/")


def _folders(root: Path) -> dict[str, Path]:
    """By the folders that are called like a split, in ``images`` or beside the names."""
    for folder in (root / "images", root):
        if folder.is_dir() and (parts := folders_of_splits(folder)):
            return parts
    return {ALL: root / "images" if (root / "images").is_dir() else root}


def _annotated(places: Sequence[Path], names: Path, labels: tuple[str, ...], *, pose: bool) -> Annotated:
    files: dict[Path, Path] = {}
    for place in places:
        folder = place.is_dir()
        own = {image: _text_of(image) for image in (walk(place).images if folder else _listed(place, names.parent))}
        if folder:
            _refuse_lonely(set(own.values()), names)
        files |= own
    photos, without = [], 0
    for image, file in files.items():
        lines = read_text(file).splitlines() if file.is_file() else []
        without += not file.is_file()
        boxes = [_box(line, file, number, labels, pose=pose) for number, line in enumerate(lines, 1) if line.strip()]
        photos.append(Photo(image, None, boxes, partial(_at, file, 1)))
    where = " and ".join(place.name for place in places)
    remarks = (f"{without} photos of {where} have no text file: they count as photos without an object",)
    return Annotated(labels, photos, remarks if without else ())


def _listed(file: Path, root: Path) -> list[Path]:
    """The photos that a text file lists, by paths relative to it or to `root`, or to a folder around all of them."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not (name := _with_slashes(line.strip())):
            continue
        inside = Path(*Path(name).parts[1:])  # data/images/1.jpg, where data is the folder that holds it all
        tried = (base / path for path in (Path(name), inside) for base in (file.parent, root))
        image = next((path for path in tried if path.is_file()), None)
        if image is None:
            raise DataError(f"{file}:{number}: there is no photo {name!r:.200}", fix="add it, or remove the line")
        found.append(image)
    return found


def _text_of(image: Path) -> Path:
    """In ``labels`` for a photo in the last folder called ``images``, else beside it."""
    parts = list(image.parts)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        other = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
        if other.is_file() or not image.with_suffix(".txt").is_file():
            return other
    return image.with_suffix(".txt")


def _refuse_lonely(files: set[Path], names: Path) -> None:
    """`DataError` for text files beside the photos' that belong to no photo."""
    for parent in sorted({file.parent for file in files}):
        for file in sorted(parent.glob("*.txt")):
            if file not in files and file != names and file.name not in _TEXTS and not file.name.startswith("README"):
                raise DataError(f"{file}:1: there is no photo of this annotation", fix="add it, or remove the file")


def _box(line: str, file: Path, number: int, labels: tuple[str, ...], *, pose: bool) -> Box:
    """Around the corners where a line has an outline; with `pose`, points of a body are behind the box."""
    where = partial(_at, file, number)
    parts = line.split()[: 5 if pose else None]
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if not (len(values) == 5 or polygon) or not all(map(math.isfinite, values)):
        raise DataError(f"{where()}: {line.strip()!r:.80} is not a label and a box", fix="label x y width height")
    label = int(values[0])
    if label != values[0] or not 0 <= label < len(labels):
        raise DataError(f"{where()}: label {parts[0]:.20} of {len(labels)} names", fix=f"0 to {len(labels) - 1}")
    if polygon:
        x, y = values[1::2], values[2::2]
        return Box((min(x), min(y), max(x), max(y)), labels[label], where, in_shares=True)
    _, x_, y_, width, height = values
    corners = (x_ - width / 2, y_ - height / 2, x_ + width / 2, y_ + height / 2)
    return Box(corners, labels[label], where, in_shares=True)


def _at(file: Path, line: int) -> str:
    return f"{file}:{line}"
