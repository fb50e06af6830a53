"""A data set of photos with masks: read, checked, and in splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Dataset, Sample
from edgetl.data.huggingface import is_saved_dataset
from edgetl.data.image_files import BadImage, find_unreadable, left_out_in_words, refuse_unreadable
from edgetl.data.listing import name_of
from edgetl.data.options import DataOptions
from edgetl.data.sampling import hold_out
from edgetl.data.split_words import ALL
from edgetl.tasks.segmentation.layouts import find_layout
from edgetl.tasks.segmentation.mask_files import Mask
from edgetl.tasks.segmentation.pairs import Found, Pair, find_pairs, upright_size
from edgetl.tasks.segmentation.saved_masks import read_saved_masks
from edgetl.tasks.task import Judging
from edgetl_export.progress import Track
from edgetl_runtime.errors import DataError
from edgetl_runtime.escaping import printable
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Label, Preprocess

__all__ = ["label_counts", "mask_of", "read_masks", "read_masks_labelled", "sample_of", "truth_of"]

TASK = "segmentation"

_SHOWN = 10


def read_masks(path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
    """Photos with masks to train on. Raises `DataError` for what cannot be trained on as it is."""
    found = _found(path, (), spec)
    splits, remarks = {split: list(pairs) for split, pairs in found.splits.items()}, list(found.remarks)
    if options.val is not None:
        judged_on = _found(options.val, found.labels, spec)
        _refuse_other_labels(judged_on.labels, found.labels, options.val, fix=f"the same labels.txt as in {path}")
        splits["val"] = _only(judged_on, options.val)
    if ALL in splits:
        splits["train"] = splits.pop(ALL)
    if not splits.get("train"):
        raise DataError(f"{path} has no photos to train on", fix="images/ and masks/, in it or in train/")
    samples, bad = {}, list[BadImage]()
    for split, pairs in splits.items():
        samples[split], unreadable = _samples(pairs, found.labels, path, spec, skip_bad=options.skip_bad, track=track)
        bad += unreadable
    if "val" not in samples:
        samples["train"], samples["val"] = hold_out(samples["train"], options.val_fraction, options.seed)
    remarks += [sentence for split in ("train", "val") for sentence in _absent(samples[split], found.labels, split)]
    return Dataset(
        name=name_of(path),
        labels=tuple(Label(name, name) for name in found.labels),
        train=samples["train"],
        val=samples["val"],
        test=samples.get("test", ()),
        bad=tuple(bad),
        left_out=found.left_out,
        remarks=tuple(remarks),
        task=TASK,
    )


def read_masks_labelled(path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
    """Photos with masks to judge a model on that knows `labels`, and the split they are from.

    Raises `DataError` for masks of other labels.
    """
    names = [label.name for label in labels]
    found = _found(path, names, judging.spec)
    _refuse_other_labels(found.labels, names, path, fix="the same labels.txt as in training")
    wanted = ("train", ALL) if judging.training else ("test", "val", ALL)
    split = next((name for name in wanted if name in found.splits), None)
    if split is None:
        raise DataError(f"{path} has no photos of {' or '.join(wanted[:-1])}", fix="name a folder that has")
    samples, bad = _samples(
        found.splits[split], names, path, judging.spec, skip_bad=judging.skip_bad, track=judging.track
    )
    if not samples:
        raise DataError(f"{path} has no photos in {split}", fix="images/ and masks/ with the same names")
    told = [*found.remarks, left_out_in_words(found.left_out), *_absent(samples, names, split)]
    if bad:
        told.append(f"{len(bad)} unreadable images were left out: {', '.join(item.path.name for item in bad[:3])}")
    for sentence in filter(None, told):
        judging.tell(sentence)
    return samples, split


def sample_of(source: Any, mask: Mask, name: str) -> Sample:
    """A photo with its mask. Its ``label`` is the one that has the fewest pixels of all in the mask, so that what is
    drawn from all labels alike has the rare ones in it."""
    counts = {index: count for index, count in enumerate(mask.counts) if count}
    rarest = min(counts, key=lambda index: (counts[index], index), default=0)
    # It is read when numpy asks for it: see `edgetl.tasks.segmentation.mask_files.Mask`.
    target = cast("npt.NDArray[Any]", mask)
    return Sample(source, rarest, name, target, mask.size)


def mask_of(sample: Sample) -> Mask:
    """The mask of a sample that was read here."""
    return cast("Mask", sample.target)


def truth_of(sample: Sample) -> npt.NDArray[np.uint8]:
    """(H, W): the label of every pixel of a photo, read-only. Raises `DataError` for a mask that is gone."""
    return np.asarray(sample.target)


def _found(path: Path, known: Sequence[str], spec: Preprocess) -> Found:
    if is_saved_dataset(path):
        return read_saved_masks(path, known)
    return find_pairs(find_layout(path), known, channels=spec.channels)


def _refuse_other_labels(labels: Sequence[str], names: Sequence[str], path: Path, *, fix: str) -> None:
    """`DataError` where the masks of `path` have other labels than the model, or in another order."""
    if list(labels) != list(names):
        raise DataError(
            f"the masks of {path} have the labels {', '.join(labels)}; the model's are {', '.join(names)}", fix=fix
        )


def _only(found: Found, path: Path) -> list[Pair]:
    """The pairs to validate on of a folder that was named for that."""
    for split in ("val", ALL):
        if split in found.splits:
            return list(found.splits[split])
    raise DataError(f"{path} has {' and '.join(found.splits)} but no val", fix="name the folder to validate on")


def _samples(
    pairs: Sequence[Pair], labels: Sequence[str], path: Path, spec: Preprocess, *, skip_bad: bool, track: Track
) -> tuple[tuple[Sample, ...], tuple[BadImage, ...]]:
    """Those whose photos can be read, each with a mask that fits. Raises `DataError`."""
    bad = find_unreadable([pair.photo for pair in pairs], spec, track=track)
    refuse_unreadable(bad, path, skip_bad=skip_bad)
    unreadable = {item.path for item in bad}
    kept = [pair for pair in pairs if pair.photo not in unreadable]
    root = path if path.is_dir() else path.parent
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        found = pool.map(lambda pair: _checked(pair, root), kept)
        samples = tuple(track(found, what="check masks", total=len(kept)))
    _refuse_black_and_white(samples, labels, path)
    return samples, bad


def _checked(pair: Pair, root: Path) -> Sample:
    photo, mask = upright_size(pair.photo), pair.mask.size
    if photo != mask:
        turned = " The photo is stored on its side: masks are of the upright photo." if photo == mask[::-1] else ""
        raise DataError(
            f"{pair.mask.where} has {mask[0]}x{mask[1]} pixels, its photo {pair.photo} has {photo[0]}x{photo[1]}."
            f"{turned}",
            fix="save the mask at the size of its photo, without smoothing",
        )
    file = pair.photo
    inside = isinstance(file, Path) and file.is_relative_to(root)
    name = cast("Path", file).relative_to(root).as_posix() if inside else file.name
    return sample_of(file, pair.mask, printable(name))


def _refuse_black_and_white(samples: Sequence[Sample], labels: Sequence[str], path: Path) -> None:
    """`DataError` where white was meant as a label: no pixel has any label but the first, and many are 255."""
    if samples and all(len(mask_of(sample).counts) <= 1 for sample in samples):
        ignored = [s for s in samples if sum(mask_of(s).counts) < mask_of(s).size[0] * mask_of(s).size[1]]
        if ignored:
            raise DataError(
                f"the masks of {path} have the values 0 and 255 only, such as {mask_of(ignored[0]).where}; 255 marks "
                "pixels that do not count",
                fix=f"a colour table, class_dict.csv: {labels[0]},0,0,0 and {labels[1]},255,255,255",
            )
        raise DataError(f"the masks of {path} have the label {labels[0]} alone", fix="masks of two labels or more")


def _absent(samples: Sequence[Sample], labels: Sequence[str], split: str) -> list[str]:
    """A sentence on the labels that no pixel of a split has."""
    total: Counter[int] = Counter()
    for sample in samples:
        total.update(dict(enumerate(mask_of(sample).counts)))
    absent = [name for index, name in enumerate(labels) if not total[index]]
    more = f" and {len(absent) - _SHOWN} more labels" if len(absent) > _SHOWN else ""
    return [f"no pixel of {split} is {', '.join(absent[:_SHOWN])}{more}"] if absent else []


def label_counts(samples: Sequence[Sample], n: int) -> npt.NDArray[np.int64]:
    """How many pixels of all masks have each of `n` labels, (n,)."""
    total = np.zeros(n, np.int64)
    for sample in samples:
        counts = np.array(mask_of(sample).counts, np.int64)  # there are none where every pixel is ignored
        total[: len(counts)] += counts
    return total
