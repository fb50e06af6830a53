"""Image files on disk: finding them and what lies between them, and finding the damaged ones before training does."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import open_regular
from edgetl_runtime.heif import HEIF_PLUGIN, HEIF_SUFFIXES
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess

__all__ = [
    "BadImage",
    "ImageFile",
    "Tree",
    "count_ending",
    "find_unreadable",
    "image_suffixes",
    "label_folders",
    "left_out_in_words",
    "refuse_unreadable",
    "walk",
]

_SHOWN = 10
_NO_ENDING = "without an ending"
# Pillow opens these by name, but needs a plug-in or another program to decode them.
_NOT_PHOTOS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SHRINKABLE = ("JPEG", "MPO")
_MOST_SHRUNK_ASPECT = 8


class ImageFile(Protocol):
    """An image file, or the content of one inside of something larger; it can be hashed. `pathlib.Path` is one."""

    @property
    def name(self) -> str:
        """For reports."""

    def read_bytes(self) -> bytes:
        """The file's content."""


class BadImage(NamedTuple):
    """An image that preprocessing cannot read, and why."""

    path: ImageFile
    reason: str


class Tree(NamedTuple):
    """The images below a folder, sorted by path, and the other files there, counted by ending."""

    images: list[Path]
    others: Counter[str]


@cache
def _suffixes() -> frozenset[str]:
    """File name endings that Pillow reads, lower case with the dot."""
    Image.init()
    found = {end for end, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in _NOT_PHOTOS}
    return frozenset(found | set(HEIF_SUFFIXES if importlib.util.find_spec(HEIF_PLUGIN) else ()))


def image_suffixes(channels: int) -> frozenset[str]:
    """Endings of files that are images: what Pillow reads, and ``.npy`` where images have not 3 `channels`.

    Photos of phones (``.heic``) are among them where pillow-heif is installed.
    """
    return _suffixes() if channels == 3 else _suffixes() | {".npy"}


def label_folders(folder: Path) -> list[Path]:
    """The folders directly inside `folder`, sorted by name, without hidden ones. Raises `DataError`."""
    try:
        inside = [item for item in folder.iterdir() if not _hidden(item.name) and item.is_dir()]
    except OSError as error:
        raise _no_folder(error) from error
    return sorted(inside, key=lambda path: path.name)


def walk(folder: Path, *, channels: int = 3, deep: bool = True) -> Tree:
    """What is below `folder`, or directly in it if not `deep`; links are followed, hidden files and folders are not
    looked at.

    Where images have not 3 `channels`, arrays in ``.npy`` files are images too. Raises `DataError` for a folder that
    cannot be read.
    """
    suffixes = image_suffixes(channels)
    images: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if deep and not _hidden(name)]
        for name in files:
            if _hidden(name):
                continue
            if Path(name).suffix.lower() in suffixes:
                images.append(Path(where, name))
            else:
                count_ending(name, others)
    return Tree(sorted(images), others)


def _refuse(error: OSError) -> None:
    raise _no_folder(error) from error


def _no_folder(error: OSError) -> DataError:
    return DataError(f"cannot read the folder {error.filename}: {error.strerror}", fix="make it readable, or move it")


def count_ending(name: str, others: Counter[str]) -> None:
    """Count a file that is no image by the ending of its name."""
    others[Path(name).suffix.lower() or _NO_ENDING] += 1


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """``left out: 12 .heic (pip install pillow-heif reads them), 3 .txt``; empty when nothing was left out."""
    if not left_out:
        return ""
    parts = [
        f"{n} {kind}" + (" (to read them: pip install pillow-heif)" if kind in HEIF_SUFFIXES else "")
        for kind, n in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    ]
    more = f" and {len(parts) - _SHOWN} more kinds" if len(parts) > _SHOWN else ""
    return f"left out: {', '.join(parts[:_SHOWN])}{more}"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def find_unreadable(files: Sequence[ImageFile], spec: Preprocess, *, track: Track = silent) -> tuple[BadImage, ...]:
    """The images among `files` that `preprocess` with `spec` refuses: what cannot be read is judged by nothing else.

    JPEGs are decoded at an eighth of their size: that still reads the whole file, so a truncated one is found.
    """
    look = partial(_why_unreadable, spec=spec)
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        reasons = list(track(pool.map(look, files), what="check photos", total=len(files)))
    return tuple(BadImage(file, why) for file, why in zip(files, reasons, strict=True) if why is not None)


def _why_unreadable(source: ImageFile, *, spec: Preprocess) -> str | None:
    try:
        small = _shrunk(source) if isinstance(source, Path) and spec.channels in (1, 3) else None
        preprocess(source if small is None else small, spec)
    except DataError as error:  # an ImageError, or a shard or a row that cannot give its image
        where, name = str(source), getattr(source, "name", "it")
        return error.what.removeprefix(f"cannot read {where}: ").replace(where, name)
    return None


def _shrunk(path: Path) -> Image.Image | None:
    """A JPEG at an eighth of its size; None for what is none, and for what has to be judged at its full size."""
    try:
        with open_regular(path) as file, Image.open(file) as image:
            if image.format not in _SHRINKABLE or max(image.size) > _MOST_SHRUNK_ASPECT * min(image.size):
                return None
            image.draft("RGB", (1, 1))
            image.load()
            return image
    # What Pillow's decoders raise on damaged files: preprocessing says it in its words.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
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
