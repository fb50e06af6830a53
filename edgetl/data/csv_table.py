"""A data set as a CSV file: ``path,label[,split]``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from edgetl.data.folders import label_name
from edgetl.data.split_words import ALL, SPLIT_WORDS, split_of, splits_among
from edgetl_runtime.errors import DataError, nearest
from edgetl_runtime.files import read_regular

__all__ = ["read_table"]

_SHOWN = 5
_LARGEST = 2**30  # bytes
_COLUMNS = "the first line must be: path,label  or: path,label,split"


def read_table(path: Path) -> dict[str, dict[str, list[Path]]]:
    """Split -> label -> image files. The split is ``"all"`` in a table without one.

    Paths are relative to the CSV file; where there is no file of that name, backslashes in it part folders, as on
    Windows. Raises `DataError` for a table that lacks a column, names an unknown split or one split in two ways, lists
    a file twice or lists files that are not there.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    seen: dict[str, int] = {}
    used: dict[str, None] = {}
    missing: list[str] = []
    for line, row in _rows(path):
        file = _file(path.parent, row["path"])
        word = row.get("split", "").casefold()
        split = split_of(word) if word else ALL
        if split is None:
            raise DataError(f"{path}, line {line}: unknown split {word!r}", fix=nearest(word, list(SPLIT_WORDS)))
        used[word] = None
        place = os.path.normpath(file)
        if place in seen:
            raise DataError(
                f"{path}, line {line}: {row['path']} stands in line {seen[place]} already", fix="list each image once"
            )
        seen[place] = line
        if not _is_there(file):
            missing.append(row["path"])
        found.setdefault(split, {}).setdefault(label_name(row["label"]), []).append(file)
    if missing:
        shown = ", ".join(str(path.parent / name)[:200] for name in missing[:_SHOWN])
        raise DataError(
            f"{path} lists {len(missing)} files that are not there: {shown}{', ...' * (len(missing) > _SHOWN)}",
            fix=f"paths are relative to {path.parent.resolve()}",
        )
    splits_among(used, str(path), fix="use one name for each split")
    if ALL in found and len(found) > 1:
        raise DataError(f"{path} names a split in some lines only", fix="fill in the split column, or leave it out")
    if not found:
        raise DataError(f"{path} lists no images", fix="a line for each: path,label")
    return found


def _file(folder: Path, name: str) -> Path:
    """The file that a line means: `name` as it stands, else with backslashes as what parts folders."""
    file = folder / name
    return folder / name.replace("\\", "/") if "\\" in name and not _is_there(file) else file


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # too long a name, or a folder that is closed
        return False


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped fields of each row."""
    try:
        text = read_regular(path, limit=_LARGEST).decode("utf-8-sig")
        # Strict: a quote that is not closed would take the lines behind it for a part of one name.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = _columns(next(reader, []), path)
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path} as CSV: {error}", fix="save it as CSV in UTF-8") from error
    return [(line, _row(fields, columns, f"{path}, line {line}")) for line, fields in lines]


def _columns(names: Sequence[str], path: Path) -> list[str]:
    columns = [name.strip() for name in names]
    lacking = [name for name in ("path", "label") if name not in columns]
    if lacking:
        what = f"{path} has no column {' and no column '.join(map(repr, lacking))}"
        shown = ", ".join(columns) or "nothing"
        parted = next((mark for mark in ";\t|" if mark in shown), None)
        raise DataError(
            f"{what}; it has: {shown}",
            fix=_COLUMNS if parted is None else f"save it with commas instead of {parted!r}; {_COLUMNS}",
        )
    twice = [name for name in ("path", "label", "split") if columns.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}", fix="keep one")
    return columns


def _row(fields: Sequence[str], columns: Sequence[str], where: str) -> dict[str, str]:
    broken = next((field for field in fields if set(field) & set("\r\n\0")), None)
    if broken is not None:
        raise DataError(
            f"{where}: a field goes over more than one line: {broken!r:.60}", fix="look for a quote that is not closed"
        )
    stripped = [field.strip() for field in fields]
    if any(stripped[len(columns) :]):
        raise DataError(
            f"{where}: {len(fields)} fields, but the first line has {len(columns)}",
            fix='a name with a comma in it must stand in quotes: "a,b.jpg"',
        )
    row = {name: stripped[i] if i < len(stripped) else "" for i, name in enumerate(columns)}
    if not row["path"] or not row["label"]:
        raise DataError(f"{where}: path or label is empty", fix="fill in both, or remove the line")
    return row
