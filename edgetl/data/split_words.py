"""What people call the splits of a data set: the one table, and the one reader of names."""

from __future__ import annotations

from collections.abc import Iterable

from edgetl_runtime.errors import DataError

__all__ = ["ALL", "SPLIT_WORDS", "split_of", "splits_among"]

ALL = "all"
"""The one split of a data set that has none."""
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}
"""A word, in small letters -> the split that it means. A label that is called like one of them needs a CSV."""


def split_of(word: str) -> str | None:
    """``"train"``, ``"val"`` or ``"test"``; None for a word that is no split. Large and small letters are the same."""
    return SPLIT_WORDS.get(word.strip().casefold())


def splits_among(names: Iterable[str], where: str, *, fix: str) -> dict[str, str]:
    """Split -> the name that stands for it, of those of `names` that are a split.

    Raises `DataError` when two of them mean one split: they may be two sets that must not be merged.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is None:
            continue
        if split in found:
            raise DataError(f"{where} has two names for the {split} split: {found[split]} and {name}", fix=fix)
        found[split] = name
    return found
