"""What photos there are to train on, found by names alone: the first that is looked at, before a network is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgetl.data.folders import LOOSE, Files, Found
from edgetl.data.image_files import left_out_in_words
from edgetl.data.options import DataOptions
from edgetl.data.splits import read_splits, validation_split
from edgetl_export.labels_file import check_label_names
from edgetl_runtime.console import table
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.escaping import printable

__all__ = ["Listing", "check_trainable", "list_photos", "name_of"]

_MOST_ROWS = 12
"""Labels that get a line each; of more the least and the largest are named."""
_NAMED = 3
_ANNOTATIONS = (".json", ".xml", ".txt", ".yaml")


@dataclass(frozen=True)
class Listing:
    """Photos by split (``train``, and ``val`` and ``test`` where they are told apart) and label.

    ``held_out`` is the share of each label that becomes the validation split, None where there is one. ``left_out``
    counts the other files, by ending; ``remarks`` are sentences on how it was read.
    """

    where: str
    splits: Mapping[str, Files]
    held_out: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Sorted, as the logits are."""
        return sorted(self.splits["train"])

    def count(self, split: str, label: str | None = None) -> int:
        """Photos of a split, or of one label in it."""
        files = self.splits.get(split, {})
        return sum(map(len, files.values())) if label is None else len(files.get(label, ()))

    @property
    def photos(self) -> int:
        """Of all splits."""
        return sum(map(self.count, self.splits))

    @property
    def split_sizes(self) -> tuple[int, int]:
        """Photos that are trained on, and that are held out to judge: test, else val."""
        train, judge = self.count("train"), self.count("test") or self.count("val")
        if self.held_out is None:
            return train, judge
        drawn = round(train * self.held_out)
        return train - drawn, judge or drawn

    def lines(self) -> list[str]:
        """For people, at most 80 columns wide: labels, photos of each and split, what is left out, what is held out."""
        splits = [split for split in ("train", "val", "test") if split in self.splits]
        head = ["label", *(["photos"] if splits == ["train"] else splits)]
        rows = [[_short(label), *(f"{self.count(split, label):,}" for split in splits)] for label in self.labels]
        total = ["all", *(f"{self.count(split):,}" for split in splits)]
        lines = [f"{self.where}: {self.photos:,} photos, {len(self.labels)} labels"]
        if len(rows) <= _MOST_ROWS:
            lines += [f"  {line}" for line in table(head, [*rows, total])]
        else:
            lines += [f"  {line}" for line in table(head, [total])]
            by_size = sorted(self.labels, key=lambda label: (self.count("train", label), label))
            for what, some in (("fewest", by_size[:_NAMED]), ("most", by_size[: -_NAMED - 1 : -1])):
                named = ", ".join(f"{_short(label)} ({self.count('train', label):,})" for label in some)
                lines.append(f"  {what} to train on: {named}")
        if self.held_out is not None:
            lines.append(f"  no validation photos there: {self.held_out:.0%} of each label are held out")
        return [*lines, *(f"  {text}" for text in self.lines_on_files)]

    @property
    def lines_on_files(self) -> list[str]:
        """How files were read, and which were left out."""
        return [text for text in (*self.remarks, left_out_in_words(self.left_out)) if text]


def list_photos(path: Path, options: DataOptions, *, channels: int) -> Listing:
    """The photos of `path` that a model is trained and judged on, without opening one.

    `path` is anything that `edgetl.data.dataset.load_dataset` reads. Raises `DataError` for anything that cannot be
    trained on, `UsageError` for a senseless option.
    """
    if not 0.0 < options.val_fraction < 1.0:
        raise UsageError(f"val_fraction is {options.val_fraction}", fix="a fraction between 0 and 1, such as 0.2")
    found = read_splits(path, channels)
    if options.val is not None:
        found = _with_validation(found, path, options.val, channels)
    splits = {"train" if split == "all" else split: rows for split, rows in found.splits.items()}
    check_label_names((name for rows in splits.values() for name in rows), str(path))
    check_trainable(splits, path, options, found.left_out)
    held_out = None if "val" in splits else options.val_fraction
    return Listing(printable(str(path)), splits, held_out, found.left_out, found.remarks)


def check_trainable(found: Mapping[str, Files], path: Path, options: DataOptions, left_out: Mapping[str, int]) -> None:
    """`DataError` for splits that nothing can be trained on."""
    if "train" not in found:
        raise DataError(f"{path} has {' and '.join(found)} but no train", fix=f"put training photos into {path}/train")
    train = found["train"]
    if not any(train.values()):
        loose = LOOSE in left_out
        fix = "photos must lie in one folder per label" if loose else "put photos into one folder per label"
        fix += _other_task(left_out)
        raise DataError(_with_left_out(f"no labelled images in {path}", left_out), fix=fix)
    if len(train) < 2:
        raise DataError(
            f"{path} has one label only: {next(iter(train))!r}",
            fix=f"at least two labels are needed{_other_task(left_out)}",
        )
    few = {label: len(files) for label, files in train.items() if len(files) < options.min_per_class}
    if few:
        counts = ", ".join(f"{label} ({n})" for label, n in few.items())
        raise DataError(
            _with_left_out(f"{path} has too few training images of: {counts}", left_out),
            fix=f"at least {options.min_per_class} of each label; add photos or remove the folder"
            + _other_task(left_out),
        )
    for split, files in found.items():
        unknown = sorted(set(files) - set(train))
        if unknown:
            raise DataError(
                f"{split} of {path} has labels that train lacks: {', '.join(unknown)}",
                fix=f"train has: {', '.join(sorted(train))}",
            )
        if not any(files.values()):
            what = _with_left_out(f"no images in {split} of {path}", left_out)
            raise DataError(what, fix="add photos, or remove it: one is then split off")


def _other_task(left_out: Mapping[str, int]) -> str:
    """Where files lie beside the photos as annotations of boxes and masks do."""
    annotated = any(ending in left_out for ending in _ANNOTATIONS)
    return "; for photos with boxes or masks: --task detection or segmentation" if annotated else ""


def name_of(path: Path) -> str:
    """A folder or a file of photos by its name, for reports: where it lies on the disk is no part of them."""
    return printable(path.resolve().stem if path.is_file() else path.resolve().name)


def _with_validation(found: Found, path: Path, val: Path, channels: int) -> Found:
    """`found` with the validation split of the folder `val`; what is not used for it is a remark."""
    other = read_splits(val, channels)
    remarks = [*found.remarks, *other.remarks]
    if "val" in found.splits:
        unused = sum(map(len, found.splits["val"].values()))
        remarks.append(
            f"the validation split of {name_of(path)} ({unused} images) is not used, that of {name_of(val)} is"
        )
    unused_splits = [split for split in other.splits if split not in ("val", "all")]
    if unused_splits:
        remarks.append(f"of {name_of(val)} the validation split is used alone, without {' and '.join(unused_splits)}")
    splits = {**found.splits, "val": validation_split(other, val)}
    return Found(splits, found.left_out + other.left_out, tuple(remarks))


def _with_left_out(what: str, left_out: Mapping[str, int]) -> str:
    words = left_out_in_words(left_out)
    return f"{what}; {words}" if words else what


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:27]}..."
