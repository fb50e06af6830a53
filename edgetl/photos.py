"""Image files on disk: finding them, and finding the damaged ones before training does."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import DataError, ImageError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.preprocess import load_bands

__all__ = [
    "BadImage",
    "ImageFile",
    "find_images",
    "find_unreadable",
    "image_suffixes",
    "label_folders",
    "refuse_unreadable",
]

_SHOWN = 10
# Pillow opens these by name, but needs a plug-in or another program to decode them.
_NOT_PHOTOS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class ImageFile(Protocol):
    """An image file, or the content of one inside of something larger; it can be hashed. `pathlib.Path` is one."""

    @property
    def name(self) -> str:
        """For reports."""

    def read_bytes(self) -> bytes:
        """The file's content."""


class BadImage(NamedTuple):
    """An image that cannot be decoded, and what Pillow says of it."""

    path: ImageFile
    reason: str


@cache
def _suffixes() -> frozenset[str]:
    """File name endings that Pillow reads, lower case with the dot."""
    Image.init()
    return frozenset(end for end, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in _NOT_PHOTOS)


def image_suffixes(channels: int) -> frozenset[str]:
    """Endings of files that are images: what Pillow reads, and ``.npy`` where images have not 3 `channels`."""
    return _suffixes() if channels == 3 else _suffixes() | {".npy"}


def label_folders(folder: Path) -> list[Path]:
    """The folders directly inside `folder`, sorted by name, without hidden ones."""
    return sorted((item for item in folder.iterdir() if item.is_dir() and not _hidden(item.name)), key=lambda p: p.name)


def find_images(folder: Path, *, channels: int = 3) -> list[Path]:
    """All images below `folder` (recursive, links followed, hidden files and folders not), sorted by path.

    Where images have not 3 `channels`, arrays in ``.npy`` files are images too.
    """
    return sorted(_walk(folder, image_suffixes(channels)))


def _walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in files:
            if not _hidden(name) and Path(name).suffix.lower() in suffixes:
                yield Path(where, name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def find_unreadable(files: Sequence[ImageFile], *, channels: int = 3, track: Track = silent) -> tuple[BadImage, ...]:
    """The images among `files` that do not decode to the end, or do not have as many `channels`.

    JPEGs are decoded at an eighth of their size: that still reads the whole file, so a truncated one is found.
    """
    look = partial(_why_unreadable, channels=channels)
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        reasons = list(track(pool.map(look, files), what="check photos", total=len(files)))
    return tuple(BadImage(file, why) for file, why in zip(files, reasons, strict=True) if why is not None)


def _why_unreadable(file: ImageFile, *, channels: int) -> str | None:
    if channels not in (1, 3) or file.name.lower().endswith(".npy"):
        try:
            load_bands(file, channels)
        except ImageError as error:
            return error.what.replace(str(file), file.name)
        return None
    try:
        with Image.open(file if isinstance(file, Path) else io.BytesIO(file.read_bytes())) as image:
            image.draft("RGB", (1, 1))
            image.load()
    # What Pillow's decoders raise on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return str(error).replace(str(file), file.name) or type(error).__name__
    return None


def refuse_unreadable(bad: Sequence[BadImage], where: Path, *, skip_bad: bool) -> None:
    """Raise `DataError` listing the first of `bad`, unless `skip_bad` or there are none."""
    if not bad or skip_bad:
        return
    lines = [f"  {item.path}: {item.reason}" for item in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  ... and {len(bad) - _SHOWN} more")
    listing = "\n".join(lines)
    raise DataError(
        f"{len(bad)} image{'s' if len(bad) > 1 else ''} in {where} cannot be read:\n{listing}",
        fix="repair or remove them, or go on without them: --skip-bad",
    )
