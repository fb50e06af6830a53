"""Boxes from Pascal VOC's XML: a file for each photo, beside it, or in ``Annotations`` with photos in ``JPEGImages``.

The folder of the photos may be called ``images`` or the like, too, and letters be small or large, as tools have it.

Corners are taken as they stand there, as most tools write them; VOC's own count pixels from 1, which is half a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.parsers import expat

from edgetl.data.folders import PHOTO_FOLDERS, folders_of_splits, label_name
from edgetl.data.image_files import label_folders
from edgetl.data.split_words import ALL, splits_among
from edgetl.tasks.detection.formats.annotated import (
    Annotated,
    Box,
    Photo,
    Splits,
    photo_named,
    read_content,
    read_text,
)
from edgetl.tasks.detection.matching import DIFFICULT
from edgetl_runtime.errors import DataError

__all__ = ["find_xml", "read_voc_splits"]

_ANNOTATIONS, _LISTS, _BOTH = "Annotations", "ImageSets/Main", "trainval"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Object:
    """Texts of one object by their path below it, each with its line."""

    line: int
    texts: dict[str, tuple[str, int]] = field(default_factory=dict)


def find_xml(path: Path) -> dict[str, list[Path]]:
    """Split -> XML files of `path`, sorted; empty where there are none."""
    if not path.is_dir():
        return {}
    folder = _folder_called(path, _ANNOTATIONS)
    inside = {} if folder is None else _listed(path, folder) or _by_split(folder)
    if any(inside.values()):
        return inside
    found = _by_split(path)  # other files may lie in annotations: a table of the labels
    return found if any(found.values()) else {}


def read_voc_splits(path: Path, files: dict[str, list[Path]]) -> Splits:
    """What the files of `find_xml` hold. Raises `DataError`."""
    return {split: _annotated(path, inside) for split, inside in files.items()}


def _by_split(path: Path) -> dict[str, list[Path]]:
    parts = folders_of_splits(path) or {ALL: path}
    return {split: sorted(folder.rglob("*.xml")) for split, folder in parts.items()}


def _folder_called(path: Path, name: str) -> Path | None:
    """The folder of `path` of that name, exactly or but for small and large letters."""
    folders = [folder for folder in label_folders(path) if folder.name.casefold() == name.casefold()]
    return min(folders, key=lambda folder: folder.name != name, default=None)


def _listed(path: Path, annotations: Path) -> dict[str, list[Path]]:
    """By the lists of names in ``ImageSets/Main`` that are called like a split; ``trainval`` where none says train."""
    lists = {file.stem: file for file in sorted((path / _LISTS).glob("*.txt"))}
    named = splits_among(lists, str(path / _LISTS), fix="join them by hand, or rename one")
    if not named.keys() & {"train", "val"} and _BOTH in lists:
        named["train"] = _BOTH
    found: dict[str, list[Path]] = {}
    for split, name in named.items():
        lines = [line for line in read_text(lists[name]).splitlines() if line.strip()]
        found[split] = [annotations / f"{_listed_name(line, annotations)}.xml" for line in lines]
        for number, xml in enumerate(found[split], 1):
            if not xml.is_file():
                raise DataError(f"{lists[name]}:{number}: there is no {xml}", fix="add it, or remove the line")
    return found


def _listed_name(line: str, annotations: Path) -> str:
    """The photo of a line: all of it, in quotes or not, or its first word where others say more of it."""
    whole = line.strip().strip('"')
    return whole if (annotations / f"{whole}.xml").is_file() else whole.split()[0]


def _annotated(root: Path, files: Sequence[Path]) -> Annotated:
    folders = {parent: _folders_of_photos(root, parent) for parent in {file.parent for file in files}}
    photos = [_photo(file, folders[file.parent]) for file in files]
    labels = sorted({box.label for photo in photos for box in photo.boxes})
    return Annotated(tuple(labels), photos)


def _photo(file: Path, folders: Sequence[Path]) -> Photo:
    size, name, objects = _parsed(file)
    source = next(filter(None, (photo_named(folder / file.stem) for folder in folders)), None)
    if source is None and name is not None and Path(name).name == name:
        source = next((image for folder in folders if (image := folder / name).is_file()), None)
    if source is None:
        raise DataError(f"{file}:1: there is no photo of this annotation", fix="add the photo, or remove the file")
    return Photo(source, size, [_box(file, one) for one in objects], partial(_at, file, 1))


def _folders_of_photos(root: Path, annotations: Path) -> list[Path]:
    """Where the photos of a folder of annotations may lie: beside them, or in the same place of a folder for photos."""
    folders = [annotations]
    above = annotations
    while above != root and above.is_relative_to(root):
        beside = [folder for folder in label_folders(above.parent) if folder.name.casefold() in PHOTO_FOLDERS]
        folders += [folder / annotations.relative_to(above) for folder in beside]
        above = above.parent
    return folders


def _box(file: Path, one: _Object) -> Box:
    where = partial(_at, file, one.line)
    label, line = one.texts.get("name", ("", one.line))
    if not label.strip():
        raise DataError(f"{_at(file, line)}: an object without a name", fix="name it, or remove it")
    corners = []
    for name in _CORNERS:
        text, line = one.texts.get(f"bndbox/{name}", ("", one.line))
        corners.append(_number(text, name, file, line))
    left, top, right, bottom = corners
    difficult = one.texts.get("difficult", ("0", 0))[0].strip() in ("1", "true", "True")
    return Box((left, top, right, bottom), label_name(label.strip()), where, DIFFICULT if difficult else 0)


def _number(text: str, name: str, file: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{_at(file, line)}: {name} is {text!r:.60}, not a number", fix="correct or remove the object")
    return value


def _parsed(file: Path) -> tuple[tuple[int, int] | None, str | None, list[_Object]]:
    """(width, height), the name of the photo, and the objects. Raises `DataError` for what is no such XML."""
    objects: list[_Object] = []
    texts: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    reader = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        path.append(tag)
        if path[1:] == ["object"]:
            objects.append(_Object(reader.CurrentLineNumber))

    def text(content: str) -> None:
        inside = path[1:] == ["object", *path[2:]] and len(path) > 2
        holder, key = (objects[-1].texts, "/".join(path[2:])) if inside else (texts, "/".join(path[1:]))
        before, line = holder.get(key, ("", reader.CurrentLineNumber))
        holder[key] = before + content, line

    def end(_: str) -> None:
        path.pop()

    reader.StartElementHandler, reader.CharacterDataHandler, reader.EndElementHandler = start, text, end
    try:
        reader.Parse(read_content(file), True)
    except expat.ExpatError as error:
        raise DataError(f"{file}:{error.lineno}: not XML: {error}", fix="export the annotation again") from None
    except (ValueError, LookupError) as error:  # an encoding that is not known, or has several bytes a letter
        raise DataError(f"{file}:1: {error}", fix="save it as UTF-8, and say so in its first line") from None
    sides = [texts.get(f"size/{name}", ("", 0))[0].strip() for name in ("width", "height")]
    known = all(side.isascii() and side.isdigit() and 0 < int(side) < 10**6 for side in sides)
    name = texts.get("filename", ("", 0))[0].strip() or None
    return ((int(sides[0]), int(sides[1])) if known else None), name, objects


def _at(file: Path, line: int) -> str:
    return f"{file}:{line}"
