"""Names of the labels of masks: one a line in ``labels.txt``, or with a colour each in a colour table.

Colour tables are CamVid's in its two forms (``class_dict.csv`` with ``name,r,g,b``; ``label_colors.txt`` with
``r g b name``) and CVAT's (``labelmap.txt`` with ``name:r,g,b::``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetl.tasks.segmentation.mask_files import IGNORED, ColourTable
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import read_regular

__all__ = ["MOST_LABELS", "MaskLabels", "find_labels", "read_names"]

MOST_LABELS = IGNORED
"""An index is 8 bits, and one of them is `IGNORED`."""

_NAMES = ("labels.txt", "classes.txt", "class_names.txt")  # the last is what LabelMe writes
_NOT_JUDGED = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
"""Names in a colour table that are no labels: their pixels do not count."""
_LARGEST = 2**20  # bytes of such a file

_ROW = re.compile(r"\s*(?P<name>[^,]*?)\s*,\s*(?P<r>\d+)\s*,\s*(?P<g>\d+)\s*,\s*(?P<b>\d+)\s*(,.*)?")
_COLOURS_FIRST = re.compile(r"\s*(?P<r>\d+)\s+(?P<g>\d+)\s+(?P<b>\d+)\s+(?P<name>.+?)\s*")
_CVAT = re.compile(r"\s*(?P<name>[^:]+?)\s*:\s*(?P<r>\d+)\s*,\s*(?P<g>\d+)\s*,\s*(?P<b>\d+)\s*:.*")
_TABLES = {
    "class_dict.csv": _ROW,
    "colors.csv": _ROW,
    "colours.csv": _ROW,
    "labels.csv": _ROW,
    "label_colors.txt": _COLOURS_FIRST,
    "labelmap.txt": _CVAT,
}


@dataclass(frozen=True)
class MaskLabels:
    """Names in the order of their values, the colours where masks have them, and sentences on how that was read."""

    names: tuple[str, ...]
    colours: ColourTable | None = None
    remarks: tuple[str, ...] = ()


def find_labels(folders: Sequence[Path]) -> MaskLabels | None:
    """Of the first of `folders` that has a colour table, else of the first that has names; None where none has.

    Raises `DataError` for a file that cannot be read so.
    """
    for folder in folders:
        for name, row in _TABLES.items():
            if (folder / name).is_file():
                return _read_table(folder / name, row)
    return read_names(folders)


def read_names(folders: Sequence[Path]) -> MaskLabels | None:
    """The names in the first of `folders` that has some; None where none has. Raises `DataError`."""
    for folder in folders:
        for name in _NAMES:
            if (folder / name).is_file():
                file = folder / name
                lines = [line.strip() for line in _lines(file)]
                while lines and not lines[-1]:
                    lines.pop()
                _check(lines, file)
                return MaskLabels(tuple(lines))
    return None


def _read_table(file: Path, row: re.Pattern[str]) -> MaskLabels:
    names: list[str] = []
    ignored: list[str] = []
    indices: dict[tuple[int, int, int], int] = {}
    for number, name, colour in _rows(file, row):
        if colour in indices:
            raise DataError(f"{file}:{number}: the colour {colour} is there twice", fix="one colour for each label")
        if name.casefold() in _NOT_JUDGED:
            ignored.append(name)
            indices[colour] = IGNORED
        else:
            indices[colour] = len(names)
            names.append(name)
    _check(names, file)
    remarks = (f"pixels of the colour of {', '.join(ignored)} do not count",) if ignored else ()
    return MaskLabels(tuple(names), ColourTable(indices), remarks)


def _rows(file: Path, row: re.Pattern[str]) -> Iterator[tuple[int, str, tuple[int, int, int]]]:
    """Number of the line, name and colour of every row but a heading and comments."""
    for number, line in enumerate(_lines(file), start=1):
        found = row.fullmatch(line)
        if found is None:
            if not line.strip() or line.lstrip().startswith("#") or (number == 1 and row is _ROW):
                continue
            raise DataError(f"{file}:{number}: not a name with a colour: {line.strip()!r:.80}", fix="name,r,g,b")
        colour = int(found["r"]), int(found["g"]), int(found["b"])
        if max(colour) > 255:
            raise DataError(f"{file}:{number}: {max(colour)} is no level of a colour", fix="0 to 255")
        yield number, found["name"], colour


def _lines(file: Path) -> list[str]:
    try:
        return read_regular(file, limit=_LARGEST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}", fix="save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}", fix="check the file") from error


def _check(names: Sequence[str], file: Path) -> None:
    """Raises `DataError` for names that are empty or twice there, and for too few or too many."""
    if not 2 <= len(names) <= MOST_LABELS:
        raise DataError(
            f"{file} has {len(names)} labels", fix=f"2 to {MOST_LABELS}; a background is a label, the first one"
        )
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{file}: label {number} has no name", fix="a name in every line, for every value from 0")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file} has the label {twice!r} twice", fix="one name for each value")
