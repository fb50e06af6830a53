"""What the command line says while it works; how far it is shows `edgetl.progress`."""

from __future__ import annotations

import sys
from typing import TextIO

from edgetl.training.rank import is_first
from edgetl_runtime.escaping import message

__all__ = ["say", "tell"]


def say(text: str, *, stream: TextIO | None = None) -> None:
    """A message for the person at the other end, on stderr: stdout belongs to results."""
    print(message(text), file=stream or sys.stderr, flush=True)


def tell(text: str) -> None:
    """`say` it, once for all processes that train together."""
    if is_first():
        say(text)
