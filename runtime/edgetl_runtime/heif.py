"""Photos of phones (HEIC): Pillow reads them with the package pillow-heif, which is imported when one is met."""

from __future__ import annotations

import importlib

from edgetl_runtime.errors import ImageError

__all__ = ["HEIF_PLUGIN", "HEIF_SUFFIXES", "is_heif", "register_heif"]

HEIF_PLUGIN = "pillow_heif"
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with `head` (12 bytes) is of that format, as its own first box says."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def register_heif(what: str) -> None:
    """Let Pillow read HEIC from now on. Raises `ImageError` about `what` without the package."""
    try:
        plugin = importlib.import_module(HEIF_PLUGIN)
    except ImportError as error:
        raise ImageError(
            f"cannot read {what}: it is a HEIC photo, and pillow-heif is not installed here",
            fix="pip install pillow-heif, or save it as JPEG",
        ) from error
    plugin.register_heif_opener()
