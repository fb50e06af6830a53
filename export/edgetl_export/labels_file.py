"""``labels.txt`` of a bundle: what the numbers of a model mean, for apps that read a model file by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Label

__all__ = ["LABELS_FILE", "labels_text"]

LABELS_FILE = "labels.txt"
"""Its path in a bundle."""


def labels_text(labels: Sequence[Label]) -> bytes:
    r"""The names of `labels` as UTF-8, one a line: line N, counted from 0, is the label of logit N.

    A line break in a name is written out, ``\n``: it would shift all labels behind it.
    """
    return "".join(f"{printable(label.name)}\n" for label in labels).encode()
