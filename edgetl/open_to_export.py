"""A network that exists, in whatever form, to what can be exported: with labels, and pixels that photos confirm."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgetl.data.splits import find_photos
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.sources import SOURCES
from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.opening import SourceOptions, kind_of, open_source
from edgetl_export.labels_file import check_label_names
from edgetl_export.progress import Tell, untold
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Label

__all__ = ["labelled_by_folders", "open_to_export"]

_Opened = TypeVar("_Opened", bound=Checkpoint | Foreign)

_SOME = 16
"""Photos that a translated network is tried on."""


def open_to_export(
    spec: object, calibration: Path, options: SourceOptions | None = None, *, tell: Tell = untold
) -> Checkpoint | Foreign:
    """Whatever a network comes as (`edgetl.models.sources`), with its labels: those said, else `labelled_by_folders`.

    What was done to the weights, and where the labels are from, is told.
    """
    options = options or SourceOptions()
    kind = kind_of(spec)
    if kind in SOURCES and not SOURCES[kind].named:
        options = dataclasses.replace(options, photos=_some_photos(calibration))
    opened = open_source(spec, options)
    if kind == "checkpoint":
        return opened
    name = spec.name if isinstance(spec, Path) else opened.backbone
    tell(f"{name}: {opened.training.get('loading', 'opened as it is')}")
    if options.labels is None and not any(label.name != label.id or not label.id.isdigit() for label in opened.labels):
        opened, note = labelled_by_folders(opened, calibration)
        tell(note)
    elif numbered := _numbered(opened.labels):
        tell(numbered)
    if isinstance(opened, Foreign) and opened.refute is not None:
        photos: Mapping[str, Sequence[Any]] = {}
        with contextlib.suppress(DataError):  # they have no labels
            photos = find_photos(calibration, opened.preprocess.channels, labelled=True)[0]
        opened.refute([label.id for label in opened.labels], photos)
    return opened


def labelled_by_folders(checkpoint: _Opened, photos: Path) -> tuple[_Opened, str]:
    """Labels for plain weights that came without: those of `photos`, sorted, when they are as many as the logits.

    They are the names of the folders that `export_checkpoint` calibrates on, or what a CSV, shards or a data set say.
    Otherwise the numbers stay. The second value says which, for the user to read.
    """
    try:
        names = sorted(find_photos(photos, checkpoint.preprocess.channels, labelled=True)[0])
    except DataError:  # without labels; whatever else is wrong with the photos is said when they are read
        names = []
    if len(names) != len(checkpoint.labels):
        return checkpoint, f"labels are the numbers 0 to {len(checkpoint.labels) - 1}: --labels FILE gives them names"
    check_label_names(names, str(photos))
    labels = tuple(Label(name, name) for name in names)
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    return dataclasses.replace(checkpoint, labels=labels), f"labels are those of {photos}: {shown}"


def _some_photos(path: Path) -> list[Any]:
    """Some photos of `path`, spread over it."""
    files = [file for files in find_photos(path, 3)[0].values() for file in files]
    return files[:: max(1, len(files) // _SOME)][:_SOME]


def _numbered(labels: Sequence[Label]) -> str:
    """Which labels got a number for an id, because others have their name; empty when none did."""
    times = Counter(label.name for label in labels)
    twice = [f"{label.name} ({label.id})" for label in labels if times[label.name] > 1]
    more = f" and {len(twice) - 6} more" if len(twice) > 6 else ""
    return f"labels whose name is there twice, with their ids: {', '.join(twice[:6])}{more}" if twice else ""
