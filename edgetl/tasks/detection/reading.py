"""Annotated photos in any of the formats, as a data set: upright photos, boxes in their pixels, labels by index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.data.coco_files import coco_files
from edgetl.data.dataset import Dataset, Sample
from edgetl.data.folders import MASK_FOLDERS
from edgetl.data.huggingface import is_saved_dataset
from edgetl.data.image_files import BadImage, ImageFile, find_unreadable, refuse_unreadable, walk
from edgetl.data.listing import name_of
from edgetl.data.options import DataOptions
from edgetl.data.sampling import hold_out
from edgetl.data.split_words import ALL
from edgetl.tasks.detection.formats.annotated import Annotated, Box, Photo, Splits
from edgetl.tasks.detection.formats.coco import read_coco_splits
from edgetl.tasks.detection.formats.saved import read_saved_splits
from edgetl.tasks.detection.formats.voc import find_xml, read_voc_splits
from edgetl.tasks.detection.formats.yolo import find_names, read_yolo_splits
from edgetl.tasks.task import Judging
from edgetl_export.labels_file import check_label_names
from edgetl_export.progress import Track
from edgetl_runtime.errors import DataError, ImageError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Label, Preprocess
from edgetl_runtime.placing import place
from edgetl_runtime.preprocess import load_bands

__all__ = ["read_annotated", "read_dataset", "read_labelled"]

_SLACK = 1.0
"""Pixels that a box may lie beyond the photo, by rounding: it is cut there, and how often is said."""
_CELL = 8
"""Pixels of a cell of the finest map that a head has."""
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values for photos that lie on their side."""
_COCO, _SAVED = _OF_SIDES = ("COCO", "a saved data set")
"""Formats that give a box's width and height, where some write its right and bottom by mistake."""
_FORMATS = (
    "COCO's JSON, Pascal VOC's XML, YOLO's text files with data.yaml or classes.txt, a saved Hugging Face data set"
)


def read_annotated(path: Path) -> tuple[Splits, str]:
    """Photos by split, and the format they are in. Raises `DataError` where there is none of the formats."""
    if not path.exists():
        raise DataError(f"{path} does not exist", fix="name the folder of the photos, or the file of their boxes")
    if is_saved_dataset(path):
        return read_saved_splits(path), _SAVED
    if files := coco_files(path):
        return read_coco_splits(path, files), _COCO
    if (names := find_names(path)) is not None:
        return read_yolo_splits(path, names), "YOLO"
    if xml := find_xml(path):
        return read_voc_splits(path, xml), "Pascal VOC"
    raise DataError(f"{path} has no boxes in a format that is known", fix=f"one of: {_FORMATS}")


def read_dataset(path: Path, options: DataOptions, *, spec: Preprocess, track: Track, task: str) -> Dataset:
    """A data set to train on. Raises `DataError` for what cannot be trained on, `UsageError` for senseless options."""
    if not 0.0 < options.val_fraction < 1.0:
        raise UsageError(f"val_fraction is {options.val_fraction}", fix="a fraction between 0 and 1, such as 0.2")
    splits, kind = read_annotated(path)
    splits, remarks = _with_validation(dict(splits), path, options)
    train = splits.get("train") or splits.get(ALL)
    if train is None:
        raise DataError(f"{path} has {' and '.join(splits)} but no train", fix=f"put training photos into {path}/train")
    splits = {"train" if split == ALL else split: found for split, found in splits.items()}
    labels, unused = _labels(train, path)
    index = {label: place for place, label in enumerate(labels)}
    reading = _Reading(path, index, spec, skip_bad=options.skip_bad, kind=kind, training=True)
    samples = {split: reading.samples(found.photos, track) for split, found in splits.items()}
    rare = _rarest_labels(samples, len(labels))
    samples = {split: tuple(_labelled(sample, rare) for sample in some) for split, some in samples.items()}
    _check_trainable(samples, labels, path, options)
    remarks = [
        f"boxes are read as {kind}",
        *unused,
        *remarks,
        *(text for found in splits.values() for text in found.remarks),
    ]
    if "val" not in samples:
        samples["train"], samples["val"] = hold_out(samples["train"], options.val_fraction, options.seed)
    return Dataset(
        name=name_of(path),
        labels=tuple(Label(label, label) for label in labels),
        train=samples["train"],
        val=samples["val"],
        test=samples.get("test", ()),
        bad=tuple(reading.bad),
        remarks=(
            *remarks,
            *reading.remarks(),
            *_summary(samples, path, splits, options),
            *_tiny(samples["train"], spec),
        ),
        task=task,
    )


def read_labelled(path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
    """Photos to judge a model on that knows `labels`: test, else val, else all; with ``training`` those to train on.

    Raises `DataError` for a label that the model does not know.
    """
    splits, kind = read_annotated(path)
    wanted = ("train", ALL) if judging.training else ("test", "val", ALL)
    split = next((name for name in wanted if name in splits), None)
    if split is None:
        raise DataError(f"{path} has {' and '.join(splits)} only", fix="add a split test or val, or name its file")
    index = {label.name: place for place, label in enumerate(labels)}
    index |= {label.id: place for place, label in enumerate(labels)}
    reading = _Reading(path, index, judging.spec, skip_bad=judging.skip_bad, kind=kind, training=False)
    samples = reading.samples(splits[split].photos, judging.track)
    if not samples:
        raise DataError(f"no photos in {split} of {path}", fix="add some, or name another folder")
    for text in (f"boxes are read as {kind}", *splits[split].remarks, *reading.remarks()):
        judging.tell(text)
    rare = _rarest_labels({split: samples}, len(labels))
    return tuple(_labelled(sample, rare) for sample in samples), split


class _Reading:
    """Photos of a format to samples; it keeps what there is to say of them."""

    def __init__(
        self, path: Path, index: Mapping[str, int], spec: Preprocess, *, skip_bad: bool, kind: str, training: bool
    ) -> None:
        self._training = training
        self._hint = "; a bbox is left, top, width, height" if kind in _OF_SIDES else ""
        self._path, self._index, self._spec, self._skip_bad = path, index, spec, skip_bad
        self.bad: list[BadImage] = []
        self.cut = 0
        self.without = 0

    def samples(self, photos: Sequence[Photo], track: Track) -> tuple[Sample, ...]:
        """The readable ones. Raises `DataError` for what is wrong with a photo or its boxes."""
        bad = find_unreadable([photo.source for photo in photos], self._spec, track=track)
        refuse_unreadable(bad, self._path, skip_bad=self._skip_bad)
        self.bad += bad
        left_out = {item.path for item in bad}
        photos = [photo for photo in photos if photo.source not in left_out]
        with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
            sizes = list(pool.map(partial(_upright_size, channels=self._spec.channels), [p.source for p in photos]))
        return tuple(self._sample(photo, size) for photo, size in zip(photos, sizes, strict=True))

    def _sample(self, photo: Photo, size: tuple[int, int]) -> Sample:
        _check_size(photo, size)
        rows = [self._row(box, size) for box in photo.boxes]
        if len(set(rows)) < len(rows):
            twice = next(box for place, box in enumerate(photo.boxes) if rows[place] in rows[:place])
            raise DataError(f"{twice.where()}: the same box with the same label is there twice", fix="remove one")
        target = np.array(rows, np.float64).reshape(-1, 6)
        self.without += not rows
        return Sample(photo.source, 0, self._name(photo.source), target, size)

    def _row(self, box: Box, size: tuple[int, int]) -> tuple[float, ...]:
        if box.label not in self._index:
            known = ", ".join(list(self._index)[:10])
            if self._training:
                raise DataError(
                    f"{box.where()}: no box to train on has the label {box.label!r:.60}",
                    fix=f"photos with it in train too, or one of: {known}",
                )
            raise DataError(f"{box.where()}: label {box.label!r:.60} is not known", fix=f"one of: {known}")
        sides = np.array(size * 2, np.float64)
        corners = np.array(box.corners, np.float64) * (sides if box.in_shares else 1.0)
        shown = ", ".join(f"{value:g}" for value in corners)
        if (corners[2:] <= corners[:2]).any():
            kind = "inverted" if (corners[2:] < corners[:2]).any() else "of no area"
            raise DataError(
                f"{box.where()}: a box {kind}: {shown} (left, top, right, bottom)", fix="correct or remove it"
            )
        inside = np.clip(corners, 0.0, sides)
        if np.abs(inside - corners).max() > _SLACK or (inside[2:] <= inside[:2]).any():
            raise DataError(
                f"{box.where()}: a box outside of the photo of {size[0]}x{size[1]} pixels: {shown} (left, top, right, "
                "bottom)",
                fix=f"correct or remove it{self._hint}",
            )
        self.cut += bool((inside != corners).any())
        return (*inside.tolist(), float(self._index[box.label]), float(box.flag))

    def _name(self, source: ImageFile) -> str:
        if isinstance(source, Path):
            root = self._path if self._path.is_dir() else self._path.parent
            return printable(source.relative_to(root).as_posix() if source.is_relative_to(root) else source.name)
        return printable(source.name)

    def remarks(self) -> list[str]:
        """Sentences on what was cut and what has no boxes."""
        found = []
        if self.without:
            found.append(f"{self.without} photos have no box: they show the background")
        if self.cut:
            found.append(f"{self.cut} boxes end up to {_SLACK:g} pixel beyond their photo: they were cut there")
        return found


def _check_size(photo: Photo, size: tuple[int, int]) -> None:
    if photo.size is None or photo.size == size:
        return
    told, actual = (f"{width}x{height}" for width, height in (photo.size, size))
    if photo.size == size[::-1]:
        raise DataError(
            f"{photo.where()}: width and height are swapped: it says {told}, and {photo.source.name} is {actual} "
            "upright",
            fix="annotate the upright photo: one with an EXIF orientation is turned by it",
        )
    raise DataError(
        f"{photo.where()}: it says {told} pixels, and {photo.source.name} has {actual}",
        fix="annotate this photo, or put the one there that was annotated",
    )


def _upright_size(source: ImageFile, channels: int) -> tuple[int, int]:
    """(width, height), from the head of the file where that tells."""
    if isinstance(source, Path) and channels == 3:
        try:
            with Image.open(source) as image:
                width, height = image.size
                if image.format in ("JPEG", "PNG", "WEBP"):
                    turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
                    return (height, width) if turned else (width, height)
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"cannot read {source}: {error}", fix="repair or remove it") from error
    return load_bands(source, channels)[0].size


def _with_validation(
    splits: dict[str, Annotated], path: Path, options: DataOptions
) -> tuple[dict[str, Annotated], list[str]]:
    """`splits` with the validation split of ``options.val``, and what is to be said of it."""
    if options.val is None:
        return splits, []
    other, _ = read_annotated(options.val)
    chosen = next((name for name in ("val", ALL) if name in other), None)
    if chosen is None:
        raise DataError(f"{options.val} has {' and '.join(other)} but no val", fix="name the validation photos")
    remarks = [f"the validation split of {name_of(path)} is not used, that of {name_of(options.val)} is"]
    return {**splits, "val": other[chosen]}, remarks if "val" in splits else []


def _labels(train: Annotated, path: Path) -> tuple[tuple[str, ...], list[str]]:
    """Those that training photos have boxes of, and a sentence on those that are only named, as exports of tools do."""
    if not train.photos:
        raise DataError(f"no photos to train on in {path}", fix="add some")
    if not any(photo.boxes for photo in train.photos):
        raise DataError(f"no boxes to train on in {path}", fix="annotate the photos")
    used = {box.label for photo in train.photos for box in photo.boxes}
    labels = tuple(label for label in train.labels if label in used)
    check_label_names(labels, str(path))
    unused = [printable(label) for label in train.labels if label not in used]
    shown = ", ".join(unused[:10]) + (f" and {len(unused) - 10} more" if len(unused) > 10 else "")
    return labels, [f"labels without a box to train on are left out: {shown}"] if unused else []


def _check_trainable(
    samples: Mapping[str, Sequence[Sample]], labels: Sequence[str], path: Path, options: DataOptions
) -> None:
    """`DataError` for labels that nothing can be learned of."""
    photos = Counter(label for sample in samples["train"] for label in set(_labels_of(sample)))
    few = {name: photos[place] for place, name in enumerate(labels) if photos[place] < options.min_per_class}
    if few:
        counts = ", ".join(f"{label} ({n})" for label, n in few.items())
        raise DataError(
            f"{path} has too few training photos with: {counts}",
            fix=f"at least {options.min_per_class} with each label; add some, or remove the label from the annotations",
        )
    for split, some in samples.items():
        if not some:
            raise DataError(f"no photos in {split} of {path}", fix="add some, or remove it: one is then split off")


def _labels_of(sample: Sample) -> npt.NDArray[np.int64]:
    """Of the boxes that count."""
    assert sample.target is not None
    labels: npt.NDArray[np.int64] = sample.target[sample.target[:, 5] == 0, 4].astype(np.int64)
    return labels


def _rarest_labels(samples: Mapping[str, Sequence[Sample]], labels: int) -> npt.NDArray[np.int64]:
    """(labels,) photos that have each: what a photo is drawn by is its rarest label."""
    counts = np.zeros(labels, np.int64)
    for some in samples.values():
        for sample in some:
            counts[np.unique(_labels_of(sample))] += 1
    return counts


def _labelled(sample: Sample, photos: npt.NDArray[np.int64]) -> Sample:
    """With the label that the fewest photos have, of those in it; 0 for none."""
    labels = np.unique(_labels_of(sample))
    label = int(labels[photos[labels].argmin()]) if len(labels) else 0
    return Sample(sample.source, label, sample.name, sample.target, sample.size)


def _summary(
    samples: Mapping[str, Sequence[Sample]], path: Path, splits: Mapping[str, Annotated], options: DataOptions
) -> list[str]:
    """How many boxes there are, and photos that no annotation speaks of."""
    counts = {split: sum(len(s.target) for s in some if s.target is not None) for split, some in samples.items()}
    lines = [", ".join(f"{split}: {len(some)} photos with {counts[split]} boxes" for split, some in samples.items())]
    if path.is_dir():
        used = {p.source.resolve() for found in splits.values() for p in found.photos if isinstance(p.source, Path)}
        photos = [image for image in walk(path).images if image.parent.name.lower() not in MASK_FOLDERS]
        unknown = sum(image.resolve() not in used for image in photos)
        if unknown:
            lines.append(f"{unknown} photos have no annotation: they are not used")
    return lines


def _tiny(samples: Sequence[Sample], spec: Preprocess) -> list[str]:
    """A sentence where most objects of large photos are hardly there in what the network is given."""
    sides = [np.zeros(0)]
    for sample in samples:
        if sample.target is not None and sample.size is not None and len(sample.target):
            boxes = place(sample.size, spec).to_tensor(sample.target[:, :4])
            sides.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    every = np.concatenate(sides)
    small = int((every < _CELL).sum())
    if 2 * small <= len(every):
        return []
    height, width = spec.crop
    return [
        f"warning: {small} of {len(every)} boxes to train on are below {_CELL}x{_CELL} pixels in images of "
        f"{height}x{width}, half of them below {np.median(every):.1f}: hardly anything is learned of these - a larger "
        "--image-size, or photos and annotations cut into parts (and --tile on the device)"
    ]
