"""How photos are read, as options: most of the ``[data]`` section of a recipe. Without what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgetl.option import SEED, option, within

__all__ = ["DataOptions"]

_MOST = 1_000_000


@dataclass(frozen=True)
class DataOptions:
    """How `edgetl.data.dataset.load_dataset` reads. Without ``val`` and without a split on disk, ``val_fraction`` of
    each class is held out, drawn with ``seed``.
    """

    val: Path | None = option(
        None, "validation photos, one folder per label", usual="DIR/val, else a split", metavar="DIR"
    )
    val_fraction: float = option(
        0.2,
        "share of each label that is held out where there is no split",
        check=within(0, 1, but=(0, 1), more=", such as 0.2"),
        flag=None,
    )
    seed: int = option(0, "draws what is held out", check=SEED, flag=None)
    task: str = option("classification", "what is learned of the photos", metavar="TASK")
    skip_bad: bool = option(False, "go on without unreadable images")
    min_per_class: int = option(5, "photos that a label needs", check=within(0, _MOST), flag=None)
