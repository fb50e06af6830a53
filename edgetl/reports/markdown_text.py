"""Names and sentences of others inside Markdown, as GitHub and GitLab read it: nothing in them is interpreted.

Besides Markdown's own signs these are mentions (``@name``, also as ``&commat;name``), references (``#1``, ``GH-1``,
``!1``, ``%1``), bare addresses, formulas (``$x$``), ``:emoji:`` and inline differences (``{+ x +}``). They are found in
the finished text, where an escaped sign is a sign again: a zero-width space keeps their parts from each other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from edgetl_runtime.escaping import printable

__all__ = ["code", "escape", "summary", "text_table"]

_LONGEST_TEXT = 400
_APART = "\u200b"
_BEGINS_SOMETHING = re.compile(r"[@#]|:(?=[\w/+-])|[!%~&^](?=[\w\"'])|[{\[](?=[+-])|www(?=\.)|gh(?=-\d)", re.I)
_SIGNS = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "\\`*_[]{}<>|~"},
        "&": "&amp;",
        "$": r"<span>\$</span>",  # as GitHub's pages advise; the backslash is for GitLab
    }
)
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "<span>$</span>"})
_BEGINS_A_BLOCK = re.compile(r"(\d+)(?=[.)](?:\s|$))|(?=[-+](?:\s|$)|[-=]{2}|=$)")


def escape(text: str) -> str:
    """`text`, on one line and at most 400 characters of it, as Markdown that shows just that."""
    escaped = _apart(text).translate(_SIGNS)
    return _BEGINS_A_BLOCK.sub(r"\1\\", escaped, count=1) if _BEGINS_A_BLOCK.match(escaped) else escaped


def code(text: str) -> str:
    """A name as a code span, for a cell of a table too."""
    name = _short(text)
    if not name or "|" in name:  # a bar behind a backslash ends the cell in some renderers, in a code span too
        return escape(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    pad = " " if name[0] == "`" or name[-1] == "`" else ""
    return f"{fence}{pad}{name}{pad}{fence}"


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), names: int = 0
) -> str:
    """A table of plain texts: the columns of which `left` has the numbers to the left, the others to the right.

    The first `names` columns are names that people gave: they stand as code.
    """
    rule = [" --- " if column in left else " ---: " for column in range(len(head))]
    cells = [list(map(escape, head)), *([*map(code, row[:names]), *map(escape, row[names:])] for row in rows)]
    first, *others = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([first, f"|{'|'.join(rule)}|", *others])


def summary(text: str) -> str:
    """`text` for an element of HTML inside of Markdown, where signs of Markdown mean nothing."""
    return _apart(text).translate(_HTML)


def _apart(text: str) -> str:
    return _BEGINS_SOMETHING.sub(lambda found: found[0] + _APART, _short(text))


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
