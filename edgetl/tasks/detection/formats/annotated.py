"""Photos with boxes as every format's reader gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from edgetl.data.image_files import ImageFile, image_suffixes
from edgetl_runtime.errors import DataError

__all__ = ["Annotated", "Box", "Photo", "Splits", "Where", "photo_named", "read_content", "read_text"]

LARGEST_TEXT = 2**24
"""Bytes of one photo's annotations."""

Where: TypeAlias = Callable[[], str]
"""``file:line`` of something, worked out when it is asked for."""


@dataclass(frozen=True, eq=False)
class Box:
    """One object: ``corners`` are left, top, right, bottom in pixels of the upright photo.

    In a format that has shares of the photo's sides, ``in_shares`` is true. ``flag`` is 0, or `CROWD` or `DIFFICULT` of
    `edgetl.tasks.detection.matching`.
    """

    corners: tuple[float, float, float, float]
    label: str
    where: Where
    flag: int = 0
    in_shares: bool = False


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, its boxes, and its (width, height) where the annotation tells."""

    source: ImageFile
    size: tuple[int, int] | None
    boxes: Sequence[Box]
    where: Where


@dataclass(frozen=True, eq=False)
class Annotated:
    """The photos of one split. ``labels`` are in the order that the format has, sorted by name where it has none."""

    labels: tuple[str, ...]
    photos: Sequence[Photo]
    remarks: tuple[str, ...] = field(default=())


Splits: TypeAlias = Mapping[str, Annotated]
"""Photos by split; the one split is ``"all"`` where none are told apart."""


def photo_named(stem: Path, suffixes: frozenset[str] | None = None) -> Path | None:
    """The image file of that path but for its ending; None where there is none."""
    for suffix in sorted(suffixes or image_suffixes(3)):
        for ending in (suffix, suffix.upper()):
            file = stem.with_name(stem.name + ending)
            if file.is_file():
                return file
    return None


def read_content(path: Path) -> bytes:
    """A file with the annotations of one photo. Raises `DataError`."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes", fix="it is no annotation of one photo")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", fix="check the file") from error


def read_text(path: Path) -> str:
    """A text file of annotations. Raises `DataError`."""
    try:
        return read_content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", fix="save it as UTF-8") from None
