"""How edgetl-run shows its results: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from edgetl_runtime.errors import ImageError
from edgetl_runtime.files import read_regular
from edgetl_runtime.writing import check_writable, write_file

__all__ = ["UNREAD", "check_json_destination", "note", "read_image", "show", "size", "stop_printing", "table"]

_STDOUT = "-"

UNREAD = 141
"""Exit code when nobody reads the output any more: what a shell gives for a program that SIGPIPE ended."""


def note(text: str) -> None:
    """One line for the person at the other end, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)


def stop_printing() -> None:
    """After a BrokenPipeError (``| head``): what Python still holds of the output goes nowhere, without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def size(count: int) -> str:
    """A number of bytes for people: ``3.4 MB`` (1 MB = 10^6 bytes)."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns: those that hold numbers to the right, the others to the left."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    right = [bool(rows) and all(row[column][:1].isdigit() for row in rows) for column in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def check_json_destination(destination: str) -> None:
    """Find out before the work whether the JSON can be written; `OutputError` when not."""
    if destination != _STDOUT:
        check_writable(destination)


def show(lines: list[str], document: dict[str, Any], destination: str | None) -> None:
    """Print `lines`, and write `document` as JSON to the file `destination` if one is named.

    With ``-`` the JSON goes to stdout and the lines to stderr. Raises `OutputError` when it cannot be written.
    """
    print("\n".join(lines), file=sys.stderr if destination == _STDOUT else sys.stdout, flush=True)
    if destination is None:
        return
    text = json.dumps(_finite({"schema": 1, **document}), indent=1, ensure_ascii=False, allow_nan=False)
    if destination == _STDOUT:
        print(text, flush=True)
        return
    write_file(destination, text + "\n")


def read_image(path: str) -> bytes:
    """The bytes of an image file; `ImageError` when it cannot be read."""
    try:
        return read_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read {path}: {reason}", fix="check the path") from error


def _finite(value: Any) -> Any:
    """`value` with null for infinities and NaN, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
