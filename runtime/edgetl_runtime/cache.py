"""Where results are kept that only save time: the user's cache folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder", "keep"]

CACHE_VARIABLE = "EDGETL_CACHE"
"""Environment variable with the folder of the cache; empty switches it off."""


def cache_folder() -> Path | None:
    """Where results are kept: ``$EDGETL_CACHE``, else ``edgetl`` in the user's cache folder. None when it is off."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "edgetl"
    except RuntimeError:  # a service without a home
        return None


def keep(file: Path, content: bytes) -> None:
    """Write `file` whole or not at all. A cache that cannot be written is left alone."""
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(file)
    except OSError:
        # Where the folder cannot be made, there is nothing to remove and no way to.
        with suppress(OSError):
            beside.unlink(missing_ok=True)
