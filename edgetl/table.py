"""A data set as a CSV file: ``path,label[,split]``."""

from __future__ import annotations

import csv
from pathlib import Path

from edgetl_runtime.errors import DataError, nearest

__all__ = ["SPLITS", "read_table"]

_SHOWN = 5
SPLITS = {"": "all", "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What a split may be called -> what it is here; the empty name is that of all images."""


def read_table(path: Path) -> dict[str, dict[str, list[Path]]]:
    """Split -> label -> image files. The split is ``"all"`` in a table without one.

    Paths are relative to the CSV file. Raises `DataError` for a table that lacks a column, names an unknown split,
    lists a file twice or lists files that are not there.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    seen: dict[Path, int] = {}
    missing: list[Path] = []
    for line, row in _rows(path):
        file = path.parent / row["path"]
        split = (row.get("split") or "").strip().lower()
        if split not in SPLITS:
            raise DataError(
                f"{path}, line {line}: unknown split {split!r}", fix=nearest(split, [name for name in SPLITS if name])
            )
        if file in seen:
            raise DataError(
                f"{path}, line {line}: {row['path']} stands in line {seen[file]} already", fix="list each image once"
            )
        seen[file] = line
        if not file.is_file():
            missing.append(file)
        found.setdefault(SPLITS[split], {}).setdefault(row["label"], []).append(file)
    if missing:
        shown = ", ".join(str(file) for file in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(
            f"{path} lists {len(missing)} files that are not there: {shown}",
            fix=f"paths are relative to {path.parent.resolve()}",
        )
    if "all" in found and len(found) > 1:
        raise DataError(f"{path} names a split in some lines only", fix="fill in the split column, or leave it out")
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped fields of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [name.strip() for name in reader.fieldnames or ()]
            lacking = [name for name in ("path", "label") if name not in columns]
            if lacking:
                raise DataError(
                    f"{path} has no column {' and no column '.join(repr(name) for name in lacking)}; "
                    f"it has: {', '.join(columns) or 'nothing'}",
                    fix="the first line must be: path,label  or: path,label,split",
                )
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} as CSV: {error}", fix="save it as CSV in UTF-8") from error
    for line, row in rows:
        if not (row["path"] or "").strip() or not (row["label"] or "").strip():
            raise DataError(f"{path}, line {line}: path or label is empty", fix="fill in both, or remove the line")
    return [(line, {key: (row[key] or "").strip() for key in columns if key}) for line, row in rows]
