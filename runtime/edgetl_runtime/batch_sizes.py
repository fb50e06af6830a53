"""How many images a variant takes in one run: as numbers and as people write it."""

from __future__ import annotations

import re
from typing import Literal

from edgetl_runtime.errors import UsageError

__all__ = ["FREE", "FREE_WORD", "LARGEST_BATCH", "batch_of", "batch_text"]

FREE = -1
"""The batch of a variant that takes any number of images in one run."""

FREE_WORD: Literal["free"] = "free"
"""The same, as people write it."""

LARGEST_BATCH = 1024
"""Images in one run: of 224x224 pixels that is 150 MB of input alone."""


def batch_of(value: object, *, where: str = "batch") -> int:
    """A batch as a recipe, the command line or Python has it: ``8``, ``"8"``, or ``"free"``, which is `FREE`.

    `where` names the value in errors. Raises `UsageError` for anything else.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word == FREE_WORD:
            return FREE
        value = int(word) if re.fullmatch("[0-9]{1,9}", word) else value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_BATCH:
        raise UsageError(
            f"{where} = {value!r:.60} makes no sense",
            fix=f"images that a file takes in one run, 1 to {LARGEST_BATCH}, or {FREE_WORD}: any number",
        )
    return value


def batch_text(batch: int) -> str:
    """In words."""
    if batch == FREE:
        return "any number of images in one run"
    return "one image in one run" if batch == 1 else f"{batch} images in one run, no more and no fewer"
