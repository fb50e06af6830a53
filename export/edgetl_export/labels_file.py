"""``labels.txt`` of a bundle: what the numbers of a model mean, for apps that read a model file by themselves; and
which names no file can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgetl_runtime.errors import DataError
from edgetl_runtime.escaping import encodable, printable
from edgetl_runtime.manifest import Label

__all__ = ["LABELS_FILE", "check_label_names", "labels_text"]

LABELS_FILE = "labels.txt"
"""Its path in a bundle."""


def labels_text(labels: Sequence[Label]) -> bytes:
    r"""The names of `labels` as UTF-8, one a line: line N, counted from 0, is the label of logit N.

    A line break in a name is written out, ``\n``: it would shift all labels behind it.
    """
    return "".join(f"{printable(label.name)}\n" for label in labels).encode()


def check_label_names(names: Iterable[str], where: str) -> None:
    """Raise `DataError` for names that no file can hold: those of folders whose names are no UTF-8."""
    bad = [name for name in names if encodable(name) != name]
    if bad:
        raise DataError(
            f"{where} has labels that cannot be written, their names are no UTF-8: {', '.join(bad[:5])}",
            fix="rename the folders: their names must be UTF-8",
        )
