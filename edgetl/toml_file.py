"""Reading the TOML files that people write: recipes and gates. They may be anybody's, so what is read is bounded."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgetl_runtime.errors import UsageError
from edgetl_runtime.files import read_regular

__all__ = ["read_toml"]

_LARGEST = 2**16  # bytes
_LONGEST_LINE = 4096  # a key of n parts on one line takes tomllib n^2 steps


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file that is a `what` ("recipe"); a byte order mark in front is passed over.

    Raises `UsageError` when it cannot be read, is no regular file, too large, or no TOML.
    """
    try:
        content = read_regular(path, limit=_LARGEST)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}", fix="check the path") from None
    longest = max((len(line) for line in content.splitlines()), default=0)
    if longest > _LONGEST_LINE:
        raise UsageError(
            f"cannot read the {what} {path}: a line has {longest} bytes, more than the {_LONGEST_LINE} it may have",
            fix="shorten it",
        )
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the {what} {path}: it is not TOML: {error}", fix="correct that line") from None
