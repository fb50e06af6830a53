"""Annotations in COCO's JSON: boxes, polygons and crowds of photos, checked against what the file says itself.

The format is that of https://cocodataset.org/#format-data. What is wrong is said with the file and its line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import read_regular

__all__ = ["CocoAnnotation", "CocoFile", "CocoImage", "Points", "find_coco", "read_coco"]

_LARGEST = 2**30
"""Bytes of a file."""
_KEYS = ("images", "annotations", "categories")
_PEEK = 2**16
_SPACES = re.compile(r"[ \t\n\r]*")

Points: TypeAlias = "tuple[tuple[float, float], ...]"
"""The corners of a polygon, x and y in pixels."""


@dataclass(frozen=True, eq=False)
class CocoAnnotation:
    """One object: ``box`` is left, top, right, bottom in pixels, ``label`` the index of its category in the file.

    ``polygons`` are the outlines of its parts, empty where there are none. ``rle`` is its mask where the file has it as
    run lengths: a dictionary with ``counts`` and ``size``. ``index`` is its place in the file: see `CocoFile.where`.
    """

    box: tuple[float, float, float, float]
    label: int
    crowd: bool
    polygons: tuple[Points, ...]
    rle: Mapping[str, Any] | None
    index: int


@dataclass(frozen=True, eq=False)
class CocoImage:
    """A photo by the name that the file gives it; ``size`` is (width, height) as the file has it."""

    file_name: str
    size: tuple[int, int]
    index: int
    annotations: list[CocoAnnotation] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class CocoFile:
    """What a file holds: names of the labels in the order of the category ids, and the photos in the file's order."""

    path: Path
    labels: tuple[str, ...]
    images: tuple[CocoImage, ...]

    def where(self, entry: CocoAnnotation | CocoImage) -> str:
        """``file:line, list[index]`` of an entry. The file is read again, so this is for errors."""
        key = "images" if isinstance(entry, CocoImage) else "annotations"
        return _where(self.path, key, entry.index)


def find_coco(folder: Path) -> tuple[Path, ...]:
    """The JSON files directly in `folder` that look like this format, by name."""
    return tuple(file for file in sorted(folder.glob("*.json")) if _looks_like_coco(file))


def read_coco(path: Path, *, outlines: bool = True) -> CocoFile:
    """The annotations of one file.

    Args:
        path: The file. Categories of one name are one label: tools add one over all, called like one of them.
        outlines: Whether ``polygons`` and ``rle`` are wanted. If not, nothing looks at ``segmentation`` beside a
            ``bbox``: tools that know boxes alone write anything there.

    Raises `DataError`, with file and line, for what is not in the format: unknown images or categories, ids and file
    names that are there twice, boxes that are none, an object that is there twice.
    """
    raw = _parsed(path)
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in _KEYS):
        raise DataError(f"{path} is not in COCO's format", fix=f"a JSON object with the lists {', '.join(_KEYS)}")
    labels, label_of = _categories(raw["categories"], path)
    images = _images(raw["images"], path)
    seen: set[tuple[Any, ...]] = set()
    for index, entry in enumerate(raw["annotations"]):
        image = images.get(_number(entry, "image_id", path, "annotations", index))
        if image is None:
            raise _wrong(path, "annotations", index, f"image_id {entry['image_id']} is not in images")
        annotation = _annotation(entry, index, label_of, path, outlines=outlines)
        same = (image.index, annotation.box, annotation.label, annotation.crowd)
        if same in seen:
            raise _wrong(path, "annotations", index, "the same box with the same label is there twice")
        seen.add(same)
        image.annotations.append(annotation)
    return CocoFile(path, labels, tuple(images.values()))


def _looks_like_coco(file: Path) -> bool:
    """By its first and last part: the annotations between may be many gigabytes."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_PEEK)
            opened.seek(max(0, file.stat().st_size - _PEEK))
            content += opened.read()
    except OSError:
        return False
    return any(f'"{key}"'.encode() in content for key in ("annotations", "images"))


def _parsed(path: Path) -> Any:
    text = _text(path)
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}", fix="export the annotations again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", fix="export the annotations again") from None


def _text(path: Path) -> str:
    try:
        return read_regular(path, limit=_LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", fix="save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", fix="check the file") from error


def _wrong(path: Path, key: str, index: int, what: str, fix: str = "correct or remove the entry") -> DataError:
    return DataError(f"{_where(path, key, index)}: {what}", fix=fix)


def _where(path: Path, key: str, index: int) -> str:
    """``file:line, key[index]`` of an entry: many files have one line."""
    try:
        text = _text(path)
        position = _begin_of(text, key, index)
    except (DataError, ValueError, IndexError, StopIteration):
        return f"{path}, {key}[{index}]"
    return f"{path}:{text.count(chr(10), 0, position) + 1}, {key}[{index}]"


def _begin_of(text: str, key: str, index: int) -> int:
    """Where an entry of one of the outermost lists begins: Python's reader of JSON does not tell."""
    decoder = json.JSONDecoder()
    position = _behind(text, text.index("{") + 1)
    while text[position] != "}":
        name, position = decoder.raw_decode(text, position)
        position = _behind(text, text.index(":", position) + 1)
        if name == key:
            position = _behind(text, position + 1)
            for _ in range(index):
                position = _behind(text, decoder.raw_decode(text, position)[1])
                position = _behind(text, position + 1)
            return position
        position = _behind(text, decoder.raw_decode(text, position)[1])
        position = _behind(text, position + (text[position] == ","))
    raise ValueError(key)


def _behind(text: str, position: int) -> int:
    """The first place from `position` on that is no space."""
    found = _SPACES.match(text, position)
    return position if found is None else found.end()


def _number(entry: Any, name: str, path: Path, key: str, index: int) -> int:
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():  # as tables of numbers write them: 640.0
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(path, key, index, f"{name} is {value!r:.60}, not a whole number")
    return value


def _categories(raw: Sequence[Any], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names in the order of their ids, and id -> place."""
    names: dict[int, str] = {}
    for index, entry in enumerate(raw):
        id_ = _number(entry, "id", path, "categories", index)
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise _wrong(path, "categories", index, f"its name is {name!r:.60}, not a text")
        if id_ in names:
            raise _wrong(path, "categories", index, f"two categories have the id {id_}")
        names[id_] = name
    labels = tuple(dict.fromkeys(names[id_] for id_ in sorted(names)))
    return labels, {id_: labels.index(name) for id_, name in names.items()}


def _images(raw: Sequence[Any], path: Path) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    names: set[str] = set()
    for index, entry in enumerate(raw):
        id_, width, height = (_number(entry, name, path, "images", index) for name in ("id", "width", "height"))
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise _wrong(path, "images", index, f"file_name is {name!r:.60}, not a text")
        name = name.replace("\\", "/")  # as Windows separates folders
        if min(width, height) < 1:
            raise _wrong(path, "images", index, f"a photo of {width}x{height} pixels")
        if id_ in images or name in names:
            raise _wrong(path, "images", index, f"two images have the id {id_} or the file_name {name!r:.200}")
        images[id_] = CocoImage(name, (width, height), index)
        names.add(name)
    return images


def _annotation(
    entry: Mapping[str, Any], index: int, label_of: Mapping[int, int], path: Path, *, outlines: bool
) -> CocoAnnotation:
    category = _number(entry, "category_id", path, "annotations", index)
    if category not in label_of:
        raise _wrong(path, "annotations", index, f"category_id {category} is not in categories")
    segmentation = entry.get("segmentation") if outlines or entry.get("bbox") is None else None
    polygons: tuple[Points, ...] = ()
    if isinstance(segmentation, list):
        polygons = tuple(_polygon(part, index, path) for part in segmentation)
    elif segmentation is not None and not isinstance(segmentation, dict):
        raise _wrong(path, "annotations", index, "segmentation is neither polygons nor run lengths")
    return CocoAnnotation(
        box=_box(entry.get("bbox"), polygons, index, path),
        label=label_of[category],
        crowd=entry.get("iscrowd") in (1, True),
        polygons=polygons,
        rle=segmentation if isinstance(segmentation, dict) else None,
        index=index,
    )


def _box(raw: Any, polygons: Sequence[Points], index: int, path: Path) -> tuple[float, float, float, float]:
    """From ``bbox``: left, top, width, height; where there is none, around the polygons."""
    if raw is None and polygons:
        points = [point for polygon in polygons for point in polygon]
        (left, top), (right, bottom) = ([pick(p[axis] for p in points) for axis in (0, 1)] for pick in (min, max))
        return left, top, right, bottom
    if not isinstance(raw, list) or len(raw) != 4 or not all(map(_is_finite, raw)):
        raise _wrong(path, "annotations", index, f"bbox is {raw!r:.80}, not four numbers: left, top, width, height")
    left, top, width, height = map(float, raw)
    if width <= 0 or height <= 0:
        kind = "of no area" if min(width, height) == 0 else "inverted"
        raise _wrong(path, "annotations", index, f"a box {kind}: bbox {raw} (left, top, width, height)")
    return left, top, left + width, top + height


def _polygon(raw: Any, index: int, path: Path) -> Points:
    if not isinstance(raw, list) or len(raw) < 6 or len(raw) % 2 or not all(map(_is_finite, raw)):
        raise _wrong(path, "annotations", index, "a polygon has not x, y of three corners or more")
    return tuple(zip(map(float, raw[::2]), map(float, raw[1::2]), strict=True))


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
