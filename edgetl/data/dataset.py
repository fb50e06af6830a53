"""Photos and their labels: folders, CSV files, the built-in digits; splits, subsets, fingerprints."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgetl.data.content import content_of
from edgetl.data.duplicates import Known, find_duplicates
from edgetl.data.folders import LOOSE, Files, label_name
from edgetl.data.image_files import BadImage, ImageFile, find_unreadable, left_out_in_words, refuse_unreadable
from edgetl.data.listing import check_trainable, list_photos, name_of
from edgetl.data.options import DataOptions
from edgetl.data.prefetch import in_threads
from edgetl.data.sampling import hold_out, pick, share_of
from edgetl.data.split_words import ALL
from edgetl.data.splits import find_photos, read_splits
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_runtime.errors import DataError
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Label, Preprocess
from edgetl_runtime.preprocess import ImageSource

__all__ = [
    "USUAL",
    "DataOptions",
    "Dataset",
    "Sample",
    "contents_of",
    "demo_digits",
    "load_dataset",
    "load_labelled",
    "load_photos",
    "pick",
    "pick_readable",
    "share_of",
]

USUAL = Preprocess(resize=256, crop=(224, 224))
"""What images are read for where nothing else is known: three channels."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image: where it is read from (a path, or uint8 (H, W, C)), the index of its label, a name for reports.

    ``target`` is what it should give in a task where that is more than a label; images are then drawn from all labels
    alike, as they are where the label is all. ``size`` is (width, height) of the upright image where its reader knows.
    """

    source: ImageSource
    label: int
    name: str
    target: npt.NDArray[Any] | None = None
    size: tuple[int, int] | None = None

    @cached_property
    def content(self) -> str:
        """What the image is known by (see `edgetl.data.content`), as it was when this was first asked for."""
        return content_of(self.source)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in splits. ``labels`` are in the order of the logits, ``bad`` are the unreadable images left out,
    ``task`` is what the images are labelled for.

    ``left_out`` counts the files that are in no split, by ending; ``remarks`` are sentences on how it was read.
    """

    name: str
    labels: tuple[Label, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()
    bad: tuple[BadImage, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    task: str = "classification"

    @property
    def held_out(self) -> tuple[tuple[Sample, ...], str]:
        """What the model is judged on, and the name of that split: test when there is one, else val."""
        return (self.test, "test") if self.test else (self.val, "val")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over labels, splits and the content of every image; independent of folder and file names."""
        digest = hashlib.sha256()
        for split, samples in self._by_split.items():
            contents_of(samples)
            rows = sorted(f"{split} {self.labels[s.label].id} {s.content}{_target_digest(s)}" for s in samples)
            digest.update("\n".join([*rows, ""]).encode())
        return digest.hexdigest()

    @property
    def _by_split(self) -> dict[str, tuple[Sample, ...]]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what a person should know of the images: left out, unreadable, twice there."""
        known = [
            Known(content, split, self.labels[sample.label].id, sample.name)
            for split, samples in self._by_split.items()
            for sample, content in zip(samples, contents_of(samples), strict=True)
        ]
        sentences = [*self.remarks, left_out_in_words(self.left_out), _unreadable_in_words(self.bad)]
        return (*filter(None, sentences), *find_duplicates(known).warnings())


def _target_digest(sample: Sample) -> str:
    if sample.target is None:
        return ""
    values = np.ascontiguousarray(sample.target)
    return f" {values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"


def load_dataset(
    path: Path,
    options: DataOptions | None = None,
    *,
    spec: Preprocess = USUAL,
    track: Track = silent,
) -> Dataset:
    """A data set from a folder (one folder per label, or train, val, test with these inside), a CSV file, WebDataset
    shards (see `edgetl.data.webdataset`) or what Hugging Face's ``save_to_disk`` wrote (see `edgetl.data.huggingface`).

    A CSV has the columns ``path,label[,split]``; its paths are relative to it. Labels are sorted by name, splits are
    called by the words of `edgetl.data.split_words`. `spec` is how the model takes its images: what it cannot read is
    unreadable, and where it has not 3 channels, ``.npy`` files are photos too.
    Raises `DataError` for anything that cannot be trained on as it is, `UsageError` for a senseless option.
    """
    options = options or DataOptions()
    listing = list_photos(path, options, channels=spec.channels)
    files, bad = _without_unreadable(listing.splits, path, spec, skip_bad=options.skip_bad, track=track)
    check_trainable(files, path, options, listing.left_out)
    names = sorted(files["train"])
    index = {name: place for place, name in enumerate(names)}
    roots = {} if options.val is None else {"val": options.val}
    splits = {split: _as_samples(rows, index, roots.get(split, path)) for split, rows in files.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(splits["train"], options.val_fraction, options.seed)
    return Dataset(
        name=name_of(path),
        labels=tuple(Label(name, name) for name in names),
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test", ()),
        bad=bad,
        left_out=listing.left_out,
        remarks=listing.remarks,
    )


def load_labelled(
    path: Path,
    labels: Sequence[Label],
    *,
    spec: Preprocess = USUAL,
    training: bool = False,
    skip_bad: bool = False,
    track: Track = silent,
    tell: Tell = untold,
) -> tuple[tuple[Sample, ...], str]:
    """Photos to judge a model on that knows `labels`, and the split they come from (``"test"``, ``"val"``, ``"all"``).

    `path` is anything that `load_dataset` reads: its test split, else its validation split, else all of it; with
    `training` its training split, else the only one. Folder names are matched to the labels by id, else by name. What
    was left out is told. Raises `DataError` when a folder matches no label: the model may know more labels than the
    folder has, never fewer.
    """
    if training:
        files, listing = find_photos(path, spec.channels, labelled=True)
        split = "train" if "train" in listing.splits else next(iter(listing.splits))
    else:
        listing = read_splits(path, spec.channels)
        split = next((name for name in ("test", "val", ALL) if name in listing.splits), "")
        if not split:
            raise DataError(
                f"{path} has training photos only", fix="add a folder test or val, or name the photos' folder"
            )
        files = listing.splits[split]
    if not any(files.values()):
        what = f"the photos in {path} have no labels" if listing.left_out[LOOSE] else f"no images in {path}"
        raise DataError(
            _with_left_out(what, listing.left_out), fix="put them into one folder per label, or name a CSV: path,label"
        )
    index = _match_labels(files, labels, path)
    readable, bad = _without_unreadable({split: files}, path, spec, skip_bad=skip_bad, track=track)
    samples = _as_samples(readable[split], index, path)
    known = [
        Known(content, split, labels[sample.label].id, sample.name)
        for sample, content in zip(samples, contents_of(samples), strict=True)
    ]
    sentences = [*listing.remarks, left_out_in_words(listing.left_out), _unreadable_in_words(bad)]
    for sentence in (*filter(None, sentences), *find_duplicates(known).warnings()):
        tell(sentence)
    return samples, split


def load_photos(path: Path, *, spec: Preprocess = USUAL, tell: Tell = untold) -> tuple[Sample, ...]:
    """The photos of `path` to calibrate on: those of its training split, or of the only split that it has.

    `path` is anything that `load_dataset` reads; labels are not needed. ``label`` is the index of the folder a photo
    lies in, or of its label, so that `pick` takes from all of them alike. What was left out is told. Whether they can
    be read is not looked at: see `pick_readable`. Raises `DataError` when there are none.
    """
    files, listing = find_photos(path, spec.channels)
    if not any(files.values()):
        raise DataError(_with_left_out(f"no images in {path}", listing.left_out), fix="name a folder with photos")
    for sentence in filter(None, [*listing.remarks, left_out_in_words(listing.left_out)]):
        tell(sentence)
    return _as_samples(files, {name: index for index, name in enumerate(sorted(files))}, path)


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
    rest, test = hold_out(samples, 0.2, seed)
    train, val = hold_out(rest, 0.25, seed)
    return Dataset("digits", tuple(Label(str(i), str(i)) for i in range(10)), train, val, test)


def contents_of(samples: Sequence[Sample]) -> list[str]:
    """``content`` of each sample, hashed in threads where it is not known yet. Raises `ImageError`."""
    parts = (samples[start : start + 64] for start in range(0, len(samples), 64))
    hashed = in_threads(parts, lambda part: [partial(getattr, sample, "content") for sample in part], ahead=2)
    return [content for _, contents in hashed for content in contents]


def pick_readable(
    samples: Sequence[Sample],
    n: int,
    spec: Preprocess,
    where: Path,
    *,
    skip_bad: bool = False,
    track: Track = silent,
    tell: Tell = untold,
) -> tuple[Sample, ...]:
    """`pick` of files that `spec` can read: others take the place of unreadable ones, if `skip_bad`, which is told.

    Only what is picked is looked at. Raises `DataError` for unreadable images if not `skip_bad`, or when none is left.
    """
    left, bad, looked_at = list(samples), list[BadImage](), set[ImageFile]()
    while left:
        picked = pick(left, n)
        files = [file for sample in picked if (file := cast("ImageFile", sample.source)) not in looked_at]
        unreadable = find_unreadable(files, spec, track=track)
        if not unreadable:
            if bad:
                tell(_unreadable_in_words(bad))
            return picked
        bad += unreadable
        refuse_unreadable(bad, where, skip_bad=skip_bad)
        looked_at |= set(files)
        paths = {item.path for item in unreadable}
        left = [sample for sample in left if sample.source not in paths]
    raise DataError(f"none of the {len(samples)} images in {where} can be read", fix="name a folder with photos")


def _with_left_out(what: str, left_out: Mapping[str, int]) -> str:
    words = left_out_in_words(left_out)
    return f"{what}; {words}" if words else what


def _unreadable_in_words(bad: Sequence[BadImage]) -> str:
    if not bad:
        return ""
    shown = ", ".join(item.path.name for item in bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"{len(bad)} unreadable image{'s were' if len(bad) > 1 else ' was'} left out: {shown}"


def _without_unreadable(
    splits: Mapping[str, Files], path: Path, spec: Preprocess, *, skip_bad: bool, track: Track
) -> tuple[dict[str, Files], tuple[BadImage, ...]]:
    files = [file for rows in splits.values() for files in rows.values() for file in files]
    bad = find_unreadable(files, spec, track=track)
    refuse_unreadable(bad, path, skip_bad=skip_bad)
    left_out = {item.path for item in bad}
    readable: dict[str, Files] = {
        split: {label: [file for file in files if file not in left_out] for label, files in rows.items()}
        for split, rows in splits.items()
    }
    return readable, bad


def _match_labels(folders: Files, labels: Sequence[Label], path: Path) -> dict[str, int]:
    """Folder name -> index of its label, by id, else by a name that only one label has."""
    names = Counter(label_name(label.name) for label in labels)
    by_name = {label_name(label.name): i for i, label in enumerate(labels) if names[label_name(label.name)] == 1}
    index = by_name | {label_name(label.id): i for i, label in enumerate(labels)}
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
    listed = [(file, index[label]) for label in sorted(files) for file in files[label]]
    names = _names([file for file, _ in listed], path if path.is_dir() else path.parent)
    return tuple(Sample(file, label, name) for (file, label), name in zip(listed, names, strict=True))


def _names(files: Sequence[ImageFile], root: Path) -> list[str]:
    """Names for reports, safe to show and to write whatever the files are called, and never a path of this disk.

    Files of `root` go by their path in it. Those elsewhere, which a table may list, go by their path in the innermost
    folder that has all of them, and by its name.
    """
    roots = (root, root.absolute())
    elsewhere: dict[str, list[str]] = {}  # by drive: two have no folder in common
    for file in files:
        if isinstance(file, Path) and not _inside(file, roots):
            elsewhere.setdefault(file.anchor, []).append(os.fspath(file.parent))
    folders = (*roots, *(Path(os.path.commonpath(parents)).parent for parents in elsewhere.values()))
    return [printable(_inside(file, folders) if isinstance(file, Path) else file.name) for file in files]


def _inside(file: Path, folders: Sequence[Path]) -> str:
    """The path of `file` in the first of `folders` that it is below; empty when it is below none."""
    return next((file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder)), "")
