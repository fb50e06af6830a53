"""Text that others wrote - labels, file names, ids, errors with these inside - as it is shown and written.

A label may hold the codes that command a terminal, a line break that forges a message, or a half of a character that no
file can hold. What is shown goes through `printable`, what is only written through `encodable`.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["encodable", "json_on_screen", "json_value", "message", "printable"]

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They reorder what stands around them: a name can look like another one."""


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with control characters, line breaks and changes of direction written out: ``\x1b``, ``\n``, ``\u202e``.

    A byte of a file name that is no UTF-8 is written as ``\xe9``. Characters of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(char) if _is_command(char) and char not in keep else char for char in text)


def encodable(text: str) -> str:
    r"""`text` as UTF-8 can hold it: a byte of a file name that is no UTF-8 is written as ``\xe9``."""
    if text.isprintable():
        return text
    return "".join(_escaped(char) if "\ud800" <= char <= "\udfff" else char for char in text)


def json_value(value: Any) -> Any:
    """`value` as every JSON reader takes it: null for infinities and NaN, strings `encodable`."""
    if isinstance(value, dict):
        return {encodable(key) if isinstance(key, str) else key: json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, str):
        return encodable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_on_screen(text: str) -> str:
    r"""JSON `text` for a terminal: what `printable` would write out is written as JSON does, ``\u202e``."""
    return "".join(f"\\u{ord(char):04x}" if _is_command(char) and char != "\n" else char for char in text)


def message(text: str, *, indent: str = "  ") -> str:
    """A message of several lines, each `printable`; all but the first start with `indent`, so that none is forged."""
    first, *more = text.split("\n")
    rest = (line if line.startswith(indent) else indent + line.lstrip() for line in map(printable, more))
    return "\n".join([printable(first), *rest])


def _is_command(char: str) -> bool:
    is_control = char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029"
    return is_control or "\ud800" <= char <= "\udfff" or char in _DIRECTIONS


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return repr(char)[1:-1] if code < 0x100 else f"\\u{code:04x}"
