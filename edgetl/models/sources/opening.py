"""Opens whatever a network comes as, for an export: see the table in `edgetl.models.sources`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import CHECKPOINT_FILE, Checkpoint, open_checkpoint
from edgetl.models.sources import NOT_OF_A_NAME, SOURCES, allow_code, is_allowed, kind_of_name
from edgetl.models.sources.foreign import Foreign, read_about
from edgetl.models.sources.source_options import SourceOptions, numbers
from edgetl.models.weights import load_weights
from edgetl_runtime.errors import UsageError

__all__ = ["SourceOptions", "kind_of", "open_reference", "open_source", "reopened"]

_REFERENCE = "reference"
"""Where a bundle keeps what it came from."""
_BUNDLE = "manifest.json"
_FLAGS = {"normalize": "--mean and --std"}


def kind_of(spec: object) -> str:
    """What `spec` is: one of `SOURCES`, ``checkpoint``, or ``weights`` for a file of them.

    Raises `UsageError` for what edgetl does not start from, with the way to what it does.
    """
    if not isinstance(spec, str | Path):
        return next((kind for kind, source in SOURCES.items() if _is_of(spec, source.libraries)), "own")
    path, named = Path(spec), kind_of_name(str(spec))
    if SOURCES[named].marks:
        return named
    if path.is_dir():
        kind = _kind_of_folder(path)
    else:
        kind = next((kind for kind, source in SOURCES.items() if path.suffix.lower() in source.endings), "weights")
    if kind == "weights" and path.suffix == ".py":
        raise UsageError(f"{path}: which of its functions builds the network?", fix=f"{path}:NAME_OF_THE_FUNCTION")
    if kind in SOURCES and SOURCES[kind].refused:
        raise UsageError(f"{path}: {SOURCES[kind].refused}", fix=SOURCES[kind].instead)
    return kind


def _kind_of_folder(path: Path) -> str:
    if (path / CHECKPOINT_FILE).is_file() or (path / _BUNDLE).is_file():
        return "checkpoint"
    known = (kind for kind, source in SOURCES.items() if any((path / name).is_file() for name in source.inside))
    return next(known, "checkpoint")


def _is_of(value: object, makers: Sequence[str]) -> bool:
    """Whether its class is one of these libraries', of whatever backend; they are not imported for that."""
    return any(kind.__module__.split(".")[0] in makers for kind in type(value).__mro__)


def open_source(spec: object, options: SourceOptions) -> Checkpoint | Foreign:
    """The network of `spec` with labels, preprocessing and normalisation: a path, a name, or a model in memory.

    Raises `UsageError` when something must be said that is not, or does not fit, `CheckpointError` when weights or
    labels cannot be read or do not fit.
    """
    kind = kind_of(spec)
    if kind in ("checkpoint", "weights"):
        path = Path(str(spec))
        if options.weights is not None:
            raise UsageError(f"{path} has weights already", fix="leave --weights out")
        if options.backbone is None or not path.is_file():
            _check_said(options, [name for name in NOT_OF_A_NAME if name != "backbone"], path.name)
            return _of_checkpoint(path, options)
        allow_code(options.backbone)
        kind, spec = kind_of_name(options.backbone), options.backbone
        options = replace(options, weights=path, backbone=None)
    _check_said(options, SOURCES[kind].without, str(spec) if isinstance(spec, str | Path) else type(spec).__name__)
    source: Any = importlib.import_module(SOURCES[kind].module)
    opened: Checkpoint | Foreign = getattr(source, "opened", _of_name)(spec, options)
    return opened.decoding(options.decode)


def _check_said(options: SourceOptions, without: Sequence[str], where: str) -> None:
    """Raise `UsageError` when something is said that nothing would be done with."""
    idle = [_FLAGS.get(name, f"--{name}") for name in without if getattr(options, name) is not None]
    if idle:
        more = "; a Keras model takes pixels as --pixels says" if "normalize" in without else ""
        raise UsageError(f"{where}: nothing is done with {' and '.join(idle)}", fix=f"leave it out{more}")


def _of_checkpoint(path: Path, options: SourceOptions) -> Checkpoint:
    return open_checkpoint(
        path,
        backbone=options.backbone,
        labels=options.labels,
        image_size=options.image_size,
        channels=options.channels,
        decode=options.decode,
        normalize=options.normalize,
    )


def _of_name(spec: object, options: SourceOptions) -> Checkpoint:
    """A backbone with the weights of a file, else with those that its source publishes."""
    name = str(spec)
    labels = options.known_labels
    if options.weights is not None:
        return Checkpoint.from_weights(
            options.weights,
            backbone=name,
            labels=labels,
            image_size=options.image_size,
            channels=options.channels,
            normalize=options.normalize,
        )
    channels = options.channels or 3
    spec, normalize = preset(name, options.image_size, channels=channels, normalize=options.normalize)
    labels = labels or numbers(1000)
    model = build(name, len(labels), image_size=options.image_size, channels=channels)
    note = load_weights(model, name, "imagenet")
    return Checkpoint.of(
        model, backbone=name, labels=labels, preprocess=spec, normalize=normalize, training={"loading": note}
    )


def reopened(folder: Path) -> Checkpoint | Foreign | None:
    """The network that the folder of a checkpoint, as a bundle keeps it, has: None where its code must be named.

    Raises `CheckpointError` when the folder is damaged.
    """
    about = read_about(folder)
    source = SOURCES.get(about.source)
    if source is not None and source.named:
        return Checkpoint.load(folder) if is_allowed(about.backbone) else None
    if not about.files or source is None:
        return None
    opener: Any = importlib.import_module(source.module)
    found: Foreign = opener.reopened(folder, about)
    return found


def open_reference(spec: str | Path, bundle: Path) -> Checkpoint | Foreign:
    """What a user names as the original of a bundle: a checkpoint, or the code or the file that it was made from."""
    kind = kind_of(spec)
    if kind == "checkpoint":
        return Checkpoint.load(Path(spec))
    kept = bundle / _REFERENCE
    about = read_about(kept)
    if kind == "own":
        allow_code(str(spec))
        return replace(Checkpoint.load(kept), backbone=str(spec))
    said: dict[str, Any] = {
        "normalize": about.normalize,
        "image_size": about.preprocess.crop,
        "channels": about.preprocess.channels,
        "pixels": about.opening.get("pixels"),
    }
    without = SOURCES[kind].without if kind in SOURCES else ()
    options = SourceOptions(**{name: value for name, value in said.items() if name not in without})
    return replace(open_source(spec, options), labels=about.labels, preprocess=about.preprocess)
