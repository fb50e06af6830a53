"""Photos and their labels: folders, CSV files, the built-in digits; splits, subsets, fingerprints."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from edgetl.content import content_of
from edgetl.photos import BadImage, ImageFile, find_images, find_unreadable, refuse_unreadable
from edgetl.splits import Files, find_photos, read_splits, validation_files
from edgetl.threads import in_threads
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Label, check_label_names
from edgetl_runtime.preprocess import ImageSource

__all__ = [
    "DataOptions",
    "Dataset",
    "Sample",
    "contents_of",
    "demo_digits",
    "load_dataset",
    "load_labelled",
    "load_photos",
    "pick",
    "share_of",
]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image: where it is read from (a path, or uint8 (H, W, C)), the index of its label, a name for reports."""

    source: ImageSource
    label: int
    name: str

    @cached_property
    def content(self) -> str:
        """What the image is known by (see `edgetl.content`), as it was when this was first asked for."""
        return content_of(self.source)


@dataclass(frozen=True)
class DataOptions:
    """How `load_dataset` reads.

    ``val`` is a folder with validation photos, one folder per label; without it and without a split on disk,
    ``val_fraction`` of each class is held out, drawn with ``seed``. ``skip_bad`` goes on without unreadable images.
    """

    val: Path | None = None
    val_fraction: float = 0.2
    seed: int = 0
    skip_bad: bool = False
    min_per_class: int = 5


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in splits. ``labels`` are in the order of the logits, ``bad`` are the images left out."""

    name: str
    labels: tuple[Label, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()
    bad: tuple[BadImage, ...] = ()

    @property
    def held_out(self) -> tuple[tuple[Sample, ...], str]:
        """What the model is judged on, and the name of that split: test when there is one, else val."""
        return (self.test, "test") if self.test else (self.val, "val")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over labels, splits and the content of every image; independent of folder and file names."""
        digest = hashlib.sha256()
        contents_of([*self.train, *self.val, *self.test])
        for split, samples in (("train", self.train), ("val", self.val), ("test", self.test)):
            rows = sorted(f"{split} {self.labels[s.label].id} {s.content}" for s in samples)
            digest.update("\n".join([*rows, ""]).encode())
        return digest.hexdigest()


def load_dataset(
    path: Path, options: DataOptions | None = None, *, channels: int = 3, track: Track = silent
) -> Dataset:
    """A data set from a folder (one folder per label, or train, val, test with these inside), a CSV file, WebDataset
    shards (see `edgetl.shards`) or what Hugging Face's ``save_to_disk`` wrote (see `edgetl.saved_dataset`).

    A CSV has the columns ``path,label[,split]``; its paths are relative to it. Labels are sorted by name. `channels` is
    what the model takes: where it is not 3, ``.npy`` files are photos too.
    Raises `DataError` for anything that cannot be trained on as it is, `UsageError` for a senseless option.
    """
    options = options or DataOptions()
    if not 0.0 < options.val_fraction < 1.0:
        raise UsageError(f"val_fraction is {options.val_fraction}", fix="a fraction between 0 and 1, such as 0.2")
    found = read_splits(path, channels)
    if options.val is not None:
        found["val"] = validation_files(options.val, channels)
    if "all" in found:
        found["train"] = found.pop("all")
    check_label_names((name for files in found.values() for name in files), str(path))
    _check_trainable(found, path, options)
    found, bad = _without_unreadable(found, path, channels, skip_bad=options.skip_bad, track=track)
    _check_trainable(found, path, options)
    names = sorted(found["train"])
    splits = {split: _as_samples(files, {n: i for i, n in enumerate(names)}, path) for split, files in found.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = _hold_out(splits["train"], options.val_fraction, options.seed)
    return Dataset(
        name=printable(path.resolve().stem if path.is_file() else path.resolve().name),
        labels=tuple(Label(name, name) for name in names),
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test", ()),
        bad=bad,
    )


def load_labelled(
    path: Path, labels: Sequence[Label], *, channels: int = 3, skip_bad: bool = False, track: Track = silent
) -> tuple[tuple[Sample, ...], str]:
    """Photos to judge a model on that knows `labels`, and the split they come from (``"test"``, ``"val"``, ``"all"``).

    `path` is anything that `load_dataset` reads: its test split, else its validation split, else all of it.
    Folder names are matched to the labels by id, else by name. Raises `DataError` when a folder matches no label:
    the model may know more labels than the folder has, never fewer.
    """
    found = read_splits(path, channels)
    split = next((name for name in ("test", "val", "all") if name in found), None)
    if split is None:
        raise DataError(f"{path} has training photos only", fix="add a folder test or val, or name the photos' folder")
    if not any(found[split].values()):
        raise DataError(f"no images in {path}", fix="put photos into one folder per label")
    index = _match_labels(found[split], labels, path)
    readable, _ = _without_unreadable({split: found[split]}, path, channels, skip_bad=skip_bad, track=track)
    return _as_samples(readable[split], index, path), split


def load_photos(path: Path, *, channels: int = 3) -> tuple[Sample, ...]:
    """All photos below `path` (below ``path/train`` when that is there), or in its shards or data set, for calibration.

    ``label`` is the index of the folder a photo lies in, or of its label, so that `pick` takes from all of them alike.
    Raises `DataError` when there are none.
    """
    found = find_photos(path, channels)
    root = path / "train" if (path / "train").is_dir() else path
    return tuple(
        Sample(file, index, _short(file, root)) for index, label in enumerate(sorted(found)) for file in found[label]
    )


def demo_digits(seed: int = 0) -> Dataset:
    """The 1,797 handwritten digits that ship inside scikit-learn, as uint8 (8, 8, 3); stratified 60/20/20.

    They stay 8 x 8: enlarging them is left to `Preprocess`, so that the demo goes the way of any photo.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(np.asarray(digits.images) * (255.0 / 16.0)).astype(np.uint8)
    samples = tuple(
        Sample(np.repeat(image[:, :, None], 3, axis=2), int(label), f"digit-{i:04d}")
        for i, (image, label) in enumerate(zip(grey, digits.target, strict=True))
    )
    rest, test = _hold_out(samples, 0.2, seed)
    train, val = _hold_out(rest, 0.25, seed)
    return Dataset("digits", tuple(Label(str(i), str(i)) for i in range(10)), train, val, test)


def contents_of(samples: Sequence[Sample]) -> list[str]:
    """``content`` of each sample, hashed in threads where it is not known yet. Raises `ImageError`."""
    parts = (samples[start : start + 64] for start in range(0, len(samples), 64))
    hashed = in_threads(parts, lambda part: [partial(getattr, sample, "content") for sample in part], ahead=2)
    return [content for _, contents in hashed for content in contents]


def pick(samples: Sequence[Sample], n: int, seed: int = 0) -> tuple[Sample, ...]:
    """`n` of the samples (all when there are fewer), labels as even as can be, in their order; the same for a seed."""
    if n < 1:
        raise UsageError(f"cannot pick {n} samples", fix="a positive number")
    met: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for place, index in enumerate(np.random.default_rng(seed).permutation(len(samples)).tolist()):
        label = samples[index].label
        turns.append((met[label], place, index))  # the first of every label, then the second of every label ...
        met[label] += 1
    return tuple(samples[index] for index in sorted(index for _, _, index in sorted(turns)[:n]))


def share_of(samples: Sequence[Sample], fraction: float, seed: int = 0) -> tuple[Sample, ...]:
    """`fraction` of each label, at least one sample, in their order; for one seed, a smaller share is in a larger."""
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"cannot take {fraction} of the samples", fix="a fraction above 0, at most 1, such as 0.1")
    counts = Counter(sample.label for sample in samples)
    drawn = _draw(samples, {label: max(1, round(fraction * n)) for label, n in counts.items()}, seed)
    return tuple(sample for index, sample in enumerate(samples) if index in drawn)


def _hold_out(samples: tuple[Sample, ...], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Two parts, in the order of the samples; `fraction` of each label, at least one, not all, is in the second."""
    counts = Counter(sample.label for sample in samples)
    held = _draw(samples, {label: min(n - 1, max(1, round(fraction * n))) for label, n in counts.items()}, seed)
    return (
        tuple(s for i, s in enumerate(samples) if i not in held),
        tuple(s for i, s in enumerate(samples) if i in held),
    )


def _draw(samples: Sequence[Sample], wanted: Mapping[int, int], seed: int) -> set[int]:
    """Indices of so many samples of each label; for one seed, fewer are among more."""
    left, drawn = dict(wanted), set()
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        if left[samples[index].label] > 0:
            left[samples[index].label] -= 1
            drawn.add(index)
    return drawn


def _check_trainable(found: dict[str, Files], path: Path, options: DataOptions) -> None:
    if "train" not in found:
        raise DataError(f"{path} has {' and '.join(found)} but no train", fix=f"put training photos into {path}/train")
    train = found["train"]
    if not any(train.values()):
        loose = path.is_dir() and bool(find_images(path))
        fix = "photos must lie in one folder per label" if loose else "put photos into one folder per label"
        raise DataError(f"no labelled images in {path}", fix=fix)
    if len(train) < 2:
        raise DataError(f"{path} has one label only: {next(iter(train))!r}", fix="at least two labels are needed")
    few = {label: len(files) for label, files in train.items() if len(files) < options.min_per_class}
    if few:
        raise DataError(
            f"{path} has too few training images of: {', '.join(f'{label} ({n})' for label, n in few.items())}",
            fix=f"at least {options.min_per_class} of each label; add photos or remove the folder",
        )
    for split, files in found.items():
        unknown = sorted(set(files) - set(train))
        if unknown:
            raise DataError(
                f"{split} of {path} has labels that train lacks: {', '.join(unknown)}",
                fix=f"train has: {', '.join(sorted(train))}",
            )
        if not any(files.values()):
            raise DataError(f"no images in {split} of {path}", fix="add photos, or remove it: one is then split off")


def _without_unreadable(
    found: dict[str, Files], path: Path, channels: int, *, skip_bad: bool, track: Track
) -> tuple[dict[str, Files], tuple[BadImage, ...]]:
    files = [file for rows in found.values() for files in rows.values() for file in files]
    bad = find_unreadable(files, channels=channels, track=track)
    refuse_unreadable(bad, path, skip_bad=skip_bad)
    left_out = {item.path for item in bad}
    kept: dict[str, Files] = {
        split: {label: [file for file in files if file not in left_out] for label, files in rows.items()}
        for split, rows in found.items()
    }
    return kept, bad


def _match_labels(folders: Files, labels: Sequence[Label], path: Path) -> dict[str, int]:
    """Folder name -> index of its label, by id, else by a name that only one label has."""
    names = Counter(label.name for label in labels)
    by_name = {label.name: i for i, label in enumerate(labels) if names[label.name] == 1}
    index = by_name | {label.id: i for i, label in enumerate(labels)}
    unknown = sorted(folder for folder in folders if folder not in index)
    if unknown:
        shown = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        known = ", ".join(label.id for label in labels[:10]) + (", ..." if len(labels) > 10 else "")
        raise DataError(
            f"{path} has folders that are no label of the model: {shown}",
            fix=f"name folders by the id or the (unambiguous) name of a label: {known}",
        )
    return index


def _as_samples(files: Files, index: dict[str, int], path: Path) -> tuple[Sample, ...]:
    root = path if path.is_dir() else path.parent
    return tuple(Sample(f, index[label], _short(f, root)) for label in sorted(files) for f in files[label])


def _short(file: ImageFile, root: Path) -> str:
    """A name for reports, safe to show and to write whatever the file is called."""
    if not isinstance(file, Path):
        return printable(file.name)
    return printable(file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix())
