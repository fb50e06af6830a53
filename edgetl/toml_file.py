"""TOML that a person wrote, a recipe or a gate: read whole, with bounds, so that no file stops or fills the machine."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgetl_runtime.errors import UsageError
from edgetl_runtime.files import read_regular

__all__ = ["read_toml"]

_LARGEST = 64 * 1024
_LONGEST_LINE = 4096
"""Bytes. The time that tomllib takes grows with the square of a dotted key's parts: 23 s for 32,000 of them."""
_DEEPEST = 8
_LARGEST_INTEGER = 2**63
"""TOML promises integers of 64 bits."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The document in the file `path`; `what` it is ("recipe", "gate") stands in errors. UTF-8, with or without a byte
    order mark.

    Raises `UsageError` when it cannot be read, is no TOML, or is too large or too deep for what people write.
    """
    try:
        content = read_regular(path, limit=_LARGEST)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}", fix="check the path") from None
    if any(len(line) > _LONGEST_LINE for line in content.splitlines()):
        raise UsageError(
            f"cannot read the {what} {path}: a line has more than {_LONGEST_LINE} bytes",
            fix="break long lists into lines",
        )
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "it is too deep" if isinstance(error, RecursionError) else error
        raise UsageError(f"cannot read the {what} {path}: it is not TOML: {reason}", fix="correct that") from None
    _check_values(document, f"{what} {path}")
    return document


def _check_values(document: dict[str, Any], where: str) -> None:
    """`UsageError` for tables in tables without end, and for integers that no machine has."""
    waiting: list[tuple[Any, str, int]] = [(document, "", 0)]
    while waiting:
        value, key, depth = waiting.pop()
        if depth > _DEEPEST:
            raise UsageError(f"{where}: {key} is too deep", fix=f"at most {_DEEPEST} tables or lists in each other")
        if isinstance(value, dict):
            waiting += [(item, f"{key}.{name}" if key else name, depth + 1) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(item, key, depth + 1) for item in value]
        elif isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
            raise UsageError(f"{where}: {key} is too large", fix="a number of at most 64 bits")
