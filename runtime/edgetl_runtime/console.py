"""How edgetl-run shows its results: tables for people, JSON for programs."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any, Self, TextIO

from edgetl_runtime.errors import ImageError
from edgetl_runtime.escaping import json_on_screen, json_value, message, printable
from edgetl_runtime.files import read_regular
from edgetl_runtime.writing import check_writable, write_file

__all__ = ["Streams", "check_json_destination", "note", "out", "read_image", "show", "size", "table"]

_STDOUT = "-"


def note(text: str) -> None:
    """A message for the person at the other end, on stderr: stdout belongs to results."""
    print(message(text), file=sys.stderr, flush=True)


def out(text: str) -> None:
    """Lines of a result, on stdout. What holds names of others was made `printable` by whoever made the lines."""
    print("\n".join(map(printable, text.split("\n"))), flush=True)


class _Forgiving(io.FileIO):
    """A file descriptor of the console. The first error of a write is kept, and everything after it goes nowhere."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """As if all were written."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


class Streams:
    r"""stdout and stderr of a command while it is entered: no print can fail.

    What the console's encoding lacks is escaped (``\u82b1``). A stream that is closed, full or read by nobody swallows
    what is printed; `lost` tells what was wrong with stdout. Streams that are no longer the process's own (a test's,
    a notebook's) stay as they are.
    """

    def __enter__(self) -> Self:
        _occupy_standard_files()
        self._before = sys.stdout, sys.stderr
        self._raw: list[_Forgiving | None] = [None, None]
        if sys.stdout is sys.__stdout__:
            sys.stdout, self._raw[0] = _forgiving(sys.stdout, 1)
        if sys.stderr is sys.__stderr__:
            sys.stderr, self._raw[1] = _forgiving(sys.stderr, 2)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = self._before

    def lost(self) -> OSError | None:
        """Why something printed on stdout did not get there; None when all did."""
        sys.stdout.flush()
        raw = self._raw[0]
        return None if raw is None else raw.error


def _forgiving(stream: TextIO | None, fd: int) -> tuple[TextIO, _Forgiving]:
    """A stream onto `fd` that is encoded as `stream` was."""
    if stream is not None:
        stream.flush()
    raw = _Forgiving(fd)
    encoding = "utf-8" if stream is None else stream.encoding
    text = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.isatty())
    return text, raw


def _occupy_standard_files() -> None:
    """Open what stands in for standard files that are closed: the next model file that is opened would get their
    number, and what a library prints would be written into it. Nothing can be written to the one for stdout."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)


def size(count: int) -> str:
    """A number of bytes for people: ``3.4 MB`` (1 MB = 10^6 bytes)."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] | None = None,
    ruled: bool = False,
) -> list[str]:
    """Lines with aligned columns, below a rule where they are `ruled`.

    The columns of which `left` has the numbers are aligned to the left, the others to the right; by default those that
    hold numbers are aligned to the right.
    """
    columns = list(zip(*(map(printable, row) for row in (head, *rows)), strict=True))
    if left is None:
        left = [i for i, cells in enumerate(columns) if not rows or not all(cell[:1].isdigit() for cell in cells[1:])]
    aligned = []
    for number, cells in enumerate(columns):
        width = max(map(len, cells))
        padded = [cell.ljust(width) if number in left else cell.rjust(width) for cell in cells]
        aligned.append([padded[0], *(["-" * width] if ruled else []), *padded[1:]])
    return ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]


def check_json_destination(destination: str) -> None:
    """Find out before the work whether the JSON can be written; `OutputError` when not."""
    if destination != _STDOUT:
        check_writable(destination)


def show(lines: list[str], document: dict[str, Any], destination: str | None) -> None:
    """Write `document` as JSON to the file `destination` if one is named, then print `lines`, each one line.

    With ``-`` the JSON goes to stdout and the lines to stderr. Raises `OutputError` when it cannot be written; the
    lines are printed then too.
    """
    printed = "\n".join(map(printable, lines))
    if destination is None:
        out(printed)
        return
    text = json.dumps(json_value({"schema": 1, **document}), indent=1, ensure_ascii=False, allow_nan=False)
    if destination == _STDOUT:
        print(printed, file=sys.stderr, flush=True)
        print(json_on_screen(text), flush=True)
        return
    try:
        write_file(destination, text + "\n")
    finally:
        out(printed)


def read_image(path: str) -> bytes:
    """The bytes of an image file; `ImageError` when it cannot be read."""
    try:
        return read_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read {path}: {reason}", fix="check the path") from error
