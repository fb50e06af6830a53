"""Which of the processes that ``torchrun`` started this one is; without torch, so that a command line can ask."""

from __future__ import annotations

import os

__all__ = ["is_first"]


def is_first() -> bool:
    """Whether this process is alone or the first one: it writes and speaks for all."""
    return os.environ.get("RANK", "0") == "0"
