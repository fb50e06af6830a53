"""WebDataset shards: tar files read where they lie, image by image, without unpacking them.

The members of a sample share the path up to the first dot of the file name: ``0001.jpg`` and ``0001.cls``. Every
shard is walked through once; where its images begin, and their labels, are kept in the cache, by the shard's path,
size and time of change. Afterwards an image is a seek and a read, so that shards may be larger than any disk here, on
storage that is mounted. Addresses (http, s3, pipes) are not read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetl.data.folders import label_name
from edgetl.data.image_files import count_ending, image_suffixes
from edgetl_runtime.cache import keep, own_cache
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import LARGEST_FILE, open_regular, read_regular

__all__ = ["ShardImage", "find_shards", "read_shards"]

_VERSION = 2
_BLOCK = tarfile.BLOCKSIZE
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_SHARDS = 100_000
_LABELS = ("cls", "label", "txt", "json")
"""Members that may hold a sample's label: the first of these that it has does. Of JSON a key of `_KEYS`."""
_KEYS = ("cls", "label", "class")
_LONGEST_LABEL, _LONGEST_JSON = 1000, 2**20


@dataclass(frozen=True)
class ShardImage:
    """An image inside a tar file: ``size`` bytes from ``offset`` on."""

    shard: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """For reports: the shard's name and the member's."""
        return f"{self.shard.name}/{self.member}"

    def __str__(self) -> str:
        return f"{self.shard}/{self.member}"

    def read_bytes(self) -> bytes:
        """The image file. Raises `DataError` when the shard is gone or shorter than it was."""
        if self.size > LARGEST_FILE:
            raise DataError(f"{self} has {self.size} bytes, too many for an image", fix="leave it out")
        try:
            with open_regular(self.shard) as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot read {self}: {error}", fix="put the shard back") from error
        if len(content) < self.size:
            raise DataError(f"{self.shard} ends inside {self.member}", fix="copy the shard again")
        return content


@dataclass
class _Index:
    """What is in a shard: name, offset and size of each image, labels by the key of the sample, other members by
    ending."""

    images: list[tuple[str, int, int]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def find_shards(path: Path) -> list[Path]:
    """The shards that `path` names: a tar file, a folder with some, or a pattern such as ``a/{000..009}.tar``.

    None when it names something else. Raises `DataError` when a shard of a pattern is missing.
    """
    if _RANGE.search(str(path)) and not path.exists():
        _check_range(str(path))
        shards = [Path(name) for name in _expanded(str(path))]
        missing = [str(shard) for shard in shards if not shard.is_file()]
        if missing:
            raise DataError(f"{len(missing)} shards of {path} are missing: {missing[0]} ...", fix="check the pattern")
        return shards
    if path.suffix == ".tar" and path.is_file():
        return [path]
    return (
        sorted(file for file in path.glob("*.tar") if not file.name.startswith(".") and not file.is_dir())
        if path.is_dir()
        else []
    )


def _check_range(pattern: str) -> None:
    """`DataError` for more shards than anybody has: a number too many would be written out for hours."""
    count = math.prod(max(0, int(last) - int(first) + 1) for first, last in _RANGE.findall(pattern))
    if not 0 < count <= _MOST_SHARDS:
        raise DataError(
            f"{pattern} stands for {count} shards, not for 1 to {_MOST_SHARDS}", fix="check the numbers in braces"
        )


def _expanded(pattern: str) -> Iterator[str]:
    """Every range in braces written out, as a shell does it; numbers are as wide as the first."""
    parts = _RANGE.split(pattern)
    ranges = [
        [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3], strict=True)
    ]
    for numbers in itertools.product(*ranges):
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(parts[::3], numbers, fillvalue="")))


def read_shards(
    shards: Sequence[Path], *, channels: int, labelled: bool
) -> tuple[dict[str, list[ShardImage]], Counter[str]]:
    """Label -> images, in the order of the shards; the label of images without one is ``""`` if not `labelled`. And how
    many members are neither images nor labels, by ending.

    Raises `DataError` naming shard and member: for a damaged or cut shard, two images in one sample, and, if
    `labelled`, an image without a label.
    """
    wanted = image_suffixes(channels)
    found: dict[str, list[ShardImage]] = {}
    left_out: Counter[str] = Counter()
    for shard in shards:
        index = _indexed(shard)
        left_out += index.others
        seen: dict[str, str] = {}
        for member, offset, size in index.images:
            if Path(member).suffix.lower() not in wanted:
                count_ending(member, left_out)
                continue
            key = _key(member)
            if key in seen:
                raise DataError(f"{shard} has two images of one sample: {seen[key]} and {member}", fix="keep one")
            seen[key] = member
            label = index.labels.get(key, "")
            if labelled and not label:
                raise DataError(
                    f"{shard}: {member} has no label",
                    fix=f"put {key}.cls into the shard, or {' or '.join(_LABELS[1:])}",
                )
            found.setdefault(label, []).append(ShardImage(shard, member, offset, size))
    return found, left_out


def _key(member: str) -> str:
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _indexed(shard: Path) -> _Index:
    """The index of a shard, from the cache when the shard has not changed since."""
    try:
        about = shard.stat()
    except OSError as error:
        raise DataError(f"cannot read {shard}: {error}", fix="check the path") from error
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{shard} is no regular file, but a pipe or a device", fix="name a tar file")
    key = f"{_VERSION} {shard.resolve()} {about.st_size} {about.st_mtime_ns} {sorted(image_suffixes(1))}"
    folder = own_cache("shards")
    file = None if folder is None else folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()}.json"
    index = None if file is None else _kept(file)
    if index is None:
        index = _walked(shard)
        if file is not None:
            keep(file, json.dumps(vars(index)).encode())
    return index


def _kept(file: Path) -> _Index | None:
    try:
        raw: dict[str, Any] = json.loads(read_regular(file))
        images = [(str(name), int(offset), int(size)) for name, offset, size in raw["images"]]
        labels = {str(name): str(label) for name, label in raw["labels"].items()}
        return _Index(images, labels, Counter({str(ending): int(n) for ending, n in raw["others"].items()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _walked(shard: Path) -> _Index:
    """Every member of a shard looked at once; only labels are read."""
    index, ranks = _Index(), dict[str, int]()
    last = "its beginning"
    try:
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                last = member.name
                if not member.isfile():
                    continue
                if Path(member.name).suffix.lower() in image_suffixes(1):
                    index.images.append((member.name, member.offset_data, member.size))
                    continue
                key, extension = _key(member.name), member.name.rpartition(".")[2].lower()
                if extension in _LABELS and _LABELS.index(extension) < ranks.get(key, len(_LABELS)):
                    label = _label(archive, member, shard)
                    if label is not None:
                        index.labels[key], ranks[key] = label_name(label), _LABELS.index(extension)
                elif extension not in _LABELS and not Path(member.name).name.startswith("."):
                    count_ending(member.name, index.others)
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{shard} is damaged or cut off at {last}: {error}", fix="copy the shard again; it must be a plain tar"
        ) from error
    _check_end(shard, end, last)
    return index


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> str | None:
    """The label that a member holds; None for JSON that holds none."""
    is_json = member.name.lower().endswith(".json")
    where = f"{shard}: {member.name}"
    if member.size > (_LONGEST_JSON if is_json else _LONGEST_LABEL):
        raise DataError(f"{where} has {member.size} bytes, too many for a label", fix="a label in text, or JSON")
    stream = archive.extractfile(member)
    content = b"" if stream is None else stream.read()
    try:
        text = content.decode("utf-8-sig").strip()
        raw = json.loads(text) if is_json else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no label: {error}", fix="a label in UTF-8, or JSON") from error
    if is_json:
        raw = next((raw[key] for key in _KEYS if key in raw), None) if isinstance(raw, dict) else raw
    if raw is None or isinstance(raw, (list, dict, bool, float)):
        return None
    return str(raw).strip() or None


def _check_end(shard: Path, end: int, last: str) -> None:
    """A tar ends in zeros. What else stands there is a damaged header, or another tar, that nobody would read."""
    with open_regular(shard) as file:
        file.seek(end)
        first = file.read(_BLOCK)
        if len(first) == _BLOCK and not any(first):
            if not any(any(block) for block in iter(lambda: file.read(2**20), b"")):
                return
            what, fix = f"goes on behind its end, after {last}", "tar the members once more, instead of joining tars"
        elif not first:
            what, fix = f"is cut off after {last}", "copy the shard again"
        else:
            what, fix = f"is damaged after {last}", "copy the shard again"
    raise DataError(f"{shard} {what}", fix=fix)
