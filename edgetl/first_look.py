"""Before anything that takes long, torch's import included: are the photos there, and do the options make sense?"""

from __future__ import annotations

import json
from pathlib import Path

from edgetl.data.image_files import left_out_in_words
from edgetl.data.listing import Listing, list_photos
from edgetl.data.splits import find_photos, read_splits
from edgetl.recipe import Recipe, verify_options
from edgetl.tasks import task_of
from edgetl_export.progress import Tell, untold
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.files import read_regular
from edgetl_runtime.manifest import LARGEST_MANIFEST, Manifest

__all__ = ["look_at_calibration", "look_at_judges", "look_at_photos"]

_PUBLISHED = ("imagenet", "none")
_ARRAYS = ".npy"


def look_at_photos(recipe: Recipe, *, tell: Tell = untold) -> Listing | None:
    """The photos that `recipe` names, told in some lines; its gate and its baseline are read too.

    None when nobody can tell yet which files are photos: arrays are, where a network takes other than three channels,
    and only a file of weights says how many; and where the task has no labels that photos are listed by. Raises
    `UsageError` and `DataError`.
    """
    if recipe.data.path is None:
        raise UsageError("no photos to train on", fix="--data FOLDER")
    verify_options(recipe)
    model, task = recipe.model, task_of(recipe.data.task)
    if not task.lists_by_label:
        _check_there(recipe.data.path)
        return None
    try:
        listing = list_photos(recipe.data.path, recipe.data, channels=3 if model.channels is None else model.channels)
    except DataError:
        known = model.channels is not None or model.weights in _PUBLISHED or not Path(model.weights).exists()
        if known or not _has_arrays(recipe.data.path):
            raise
        return None
    for line in listing.lines():
        tell(line)
    return listing


def look_at_calibration(checkpoint: Path, photos: Path, *, channels: int | None, tell: Tell = untold) -> int | None:
    """How many photos there are to calibrate `checkpoint` on, told; None when nobody can tell yet, as above.

    Raises `DataError`.
    """
    known = channels if channels is not None else _channels_of(checkpoint)
    files, found = find_photos(photos, 3 if known is None else known)
    n = sum(map(len, files.values()))
    if not n:
        if known is None and found.left_out.get(_ARRAYS):
            return None
        words = left_out_in_words(found.left_out)
        raise DataError(f"no images in {photos}{words and f'; {words}'}", fix="name a folder with photos")
    folders = f" in {len(files)} folders" if len(files) > 1 else ""
    tell(f"{printable(str(photos))}: {n:,} photos{folders} to calibrate on")
    return n


def look_at_judges(photos: Path, manifest: Manifest) -> int | None:
    """How many photos there are to judge a bundle on: of the test split, else of the validation split, else all.

    None where its task has no labels that photos are listed by. Raises `DataError` when they are nothing that can be
    read.
    """
    channels = manifest.preprocess.channels
    if not task_of(manifest.task).lists_by_label:
        _check_there(photos)
        return None
    splits = read_splits(photos, channels).splits
    judges = next((splits[name] for name in ("test", "val", "all") if name in splits), {})
    return sum(map(len, judges.values()))


def _check_there(photos: Path) -> None:
    if not photos.exists():
        raise DataError(f"{photos} does not exist", fix="check the path")


def _has_arrays(path: Path) -> bool:
    """Whether ``.npy`` files lie there, which are photos for some networks."""
    try:
        return bool(find_photos(path, 3)[1].left_out.get(_ARRAYS))
    except DataError:
        return False


def _channels_of(checkpoint: Path) -> int | None:
    """What a checkpoint's folder says of its images; None for anything else: it is looked at when it is opened."""
    try:
        about = json.loads(read_regular(checkpoint / "checkpoint.json", limit=LARGEST_MANIFEST))
        channels = about["preprocess"].get("channels", 3)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return channels if isinstance(channels, int) else None
