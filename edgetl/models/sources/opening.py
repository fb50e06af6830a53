"""Opens whatever a network comes as, for an export: see the table in `edgetl.models.sources`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import CHECKPOINT_FILE, Checkpoint, load_labels, open_checkpoint
from edgetl.models.heads import HeadSpec
from edgetl.models.image_size import ImageSize
from edgetl.models.sources import PUBLISHED, PUBLISHED_BOXES, SOURCES, TIMM, allow_code, kind_of_name
from edgetl.models.sources.foreign import Foreign, read_about, state_sha256
from edgetl.models.sources.own import can_be_built, made, number_of_outputs, remember
from edgetl.models.sources.own import preset as preset_of_own
from edgetl.models.sources.program import opened_program
from edgetl.models.weight_files import read_state
from edgetl.models.weights import fit, load_weights, put_back
from edgetl_export.soundness import check_decides
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from edgetl_runtime.preprocess import ImageSource

__all__ = ["SourceOptions", "kind_of", "open_reference", "open_source", "reopened"]

_REFERENCE = "reference"
"""Where a bundle keeps what it came from."""
_SAVE_KERAS = "in the program that made it: model.save('model.keras'), then edgetl export model.keras"
_FROM_WHAT = "name what it was made from: a checkpoint, a .keras file, module.py:function, or weights with --backbone"
_SUFFIXES = {
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".pt2": "program",
    ".onnx": "onnx",
    ".tflite": "tflite",
}


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a network; None where nothing is said.

    ``pixels`` is the convention of a Keras model (`edgetl.models.sources.keras_model`), ``custom`` a file of code with
    translations of its own layers, ``head`` the last layer of a module in memory. ``photos`` are some like the
    device's, on which a translation is held against the original.
    """

    backbone: str | None = None
    weights: Path | None = None
    labels: Path | Sequence[str] | None = None
    image_size: ImageSize | None = None
    channels: int | None = None
    decode: str | None = None
    normalize: Normalize | None = None
    pixels: str | None = None
    resize: str | None = None
    interpolation: str | None = None
    custom: Path | None = None
    head: str | None = None
    photos: Sequence[ImageSource] = ()

    @property
    def known_labels(self) -> tuple[Label, ...] | None:
        """The labels, read."""
        return None if self.labels is None else load_labels(self.labels)


_MAKERS = {"keras": ("keras", "tf_keras"), "hugging-face": ("transformers",)}
"""Source of a model in memory -> the libraries whose classes it is of."""


def kind_of(spec: object) -> str:
    """What `spec` is: one of `SOURCES`, ``checkpoint``, or ``weights`` for a file of them.

    Raises `UsageError` for what edgetl does not start from, with the way to what it does.
    """
    if not isinstance(spec, str | Path):
        return next((kind for kind, makers in _MAKERS.items() if _is_of(spec, makers)), "own")
    text, path = str(spec), Path(spec)
    if ".py:" in text or text.startswith(TIMM):
        return kind_of_name(text)
    if path.is_dir():
        return _kind_of_folder(path)
    kind = _SUFFIXES.get(path.suffix.lower(), "weights")
    if path.suffix.lower() == ".pb":
        kind = "saved-model"
    _refuse(kind, path)
    return kind


def _kind_of_folder(path: Path) -> str:
    if (path / CHECKPOINT_FILE).is_file():
        return "checkpoint"
    if (path / "saved_model.pb").is_file() or (path / "keras_metadata.pb").is_file():
        _refuse("saved-model", path)
    if (path / "config.json").is_file() and not (path / "manifest.json").is_file():
        return "hugging-face"
    return "checkpoint"


def _refuse(kind: str, path: Path) -> None:
    reason = SOURCES[kind].refused if kind in SOURCES else ""
    if reason:
        raise UsageError(f"{path}: {reason}", fix=_SAVE_KERAS if kind == "saved-model" else _FROM_WHAT)


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
        return _of_weights(Path(str(spec)), options)
    if kind == "timm":
        return _of_timm(str(spec), options)
    if kind == "own":
        return _of_own(spec, options)
    if kind == "program":
        return _of_program(Path(str(spec)), options)
    opener: Any = importlib.import_module(SOURCES[kind].module)
    opened: Foreign = opener.opened(spec, options)
    return opened.decoding(options.decode)


def _of_weights(path: Path, options: SourceOptions) -> Checkpoint:
    if options.weights is not None:
        raise UsageError(f"{path} has weights already", fix="leave --weights out")
    if options.backbone is not None and path.is_file():
        allow_code(options.backbone)
        if kind_of_name(options.backbone) == "own":
            return _of_own(options.backbone, options, weights=path)
        if options.backbone in PUBLISHED:
            return _of_published(path, options.backbone, options)
    return open_checkpoint(
        path,
        backbone=options.backbone,
        labels=options.labels,
        image_size=options.image_size,
        channels=options.channels,
        decode=options.decode,
        normalize=options.normalize,
    )


def _of_published(path: Path, name: str, options: SourceOptions) -> Checkpoint:
    """torchvision's detector or segmentation network with the weights of a file, its head as it is there."""
    # Here, because torchvision's detectors take a second to import.
    from edgetl.models.heads.published_boxes import published_settings
    from edgetl.models.sources.torchvision_dense import labels_in, published_labels

    file, boxes = read_state(path), PUBLISHED[name] == PUBLISHED_BOXES
    outputs = labels_in(name, file.state)
    usual = published_labels(name)
    labels = options.known_labels or (usual if len(usual) == outputs else _numbers(outputs))
    if len(labels) != outputs:
        raise UsageError(
            f"{path.name} knows {outputs} labels, and {len(labels)} are named",
            fix="one for each, in their order; a detector's background is none",
        )
    spec, normalize = preset(name, options.image_size, mode="stretch", normalize=options.normalize)
    model = build(name, outputs, image_size=spec.crop)
    done = fit(model, file.state, name, where=str(path), keep_head=True)
    return Checkpoint.of(
        model,
        backbone=name,
        labels=labels,
        preprocess=spec,
        normalize=normalize,
        training={"weights": path.name, "loading": "; ".join((*file.notes, done))},
        head=HeadSpec(PUBLISHED[name], published_settings(spec.crop) if boxes else {}),
        task="detection" if boxes else "segmentation",
    ).decoding(options.decode)


def _of_timm(name: str, options: SourceOptions) -> Checkpoint:
    """timm's network with the weights of a file, else with those of its hub."""
    if options.weights is not None:
        known = options.known_labels
        return Checkpoint.from_weights(
            options.weights,
            backbone=name,
            labels=known,
            image_size=options.image_size,
            channels=options.channels,
            normalize=options.normalize,
        ).decoding(options.decode)
    channels = options.channels or 3
    spec, normalize = preset(name, options.image_size, channels=channels, normalize=options.normalize)
    labels = options.known_labels or _numbers(1000)
    model = build(name, len(labels), image_size=options.image_size, channels=channels)
    note = load_weights(model, name, "imagenet")
    checkpoint = Checkpoint.of(
        model, backbone=name, labels=labels, preprocess=spec, normalize=normalize, training={"loading": note}
    )
    return checkpoint.decoding(options.decode)


def _of_own(spec: object, options: SourceOptions, *, weights: Path | None = None) -> Checkpoint:
    """Your own network: its labels are as many as its outputs."""
    if isinstance(spec, str | Path):
        name = str(spec)
        allow_code(name)
    elif isinstance(spec, nn.Module):
        name = remember(spec, head=options.head)
    else:
        raise UsageError(
            f"{type(spec).__name__} is no network", fix="a torch.nn.Module, a Keras model, a path or a name"
        )
    channels = options.channels or 3
    preprocess, normalize = preset_of_own(
        name, options.image_size, channels=channels, decode=options.decode or "exact", normalize=options.normalize
    )
    preprocess = _fitted(preprocess, options)
    labels = options.known_labels
    model = made(
        name, num_classes=None if labels is None else len(labels), image_size=options.image_size, channels=channels
    ).eval()
    note = f"{name}: weights as it gives them"
    file = weights or options.weights
    if file is not None:
        read = read_state(file)
        state = _same_prefix(read.state, model)
        model = _with_outputs_of(state, model, name, preprocess.crop, channels)
        put_back(model, state, where=name)
        note = "; ".join((*read.notes, f"{file.name} loaded whole"))
    return Checkpoint.of(
        model,
        backbone=name,
        labels=_as_many(labels, number_of_outputs(model, channels, preprocess.crop, where=name), name),
        preprocess=preprocess,
        normalize=normalize,
        training={"weights": "own" if file is None else file.name, "loading": note},
    )


def _same_prefix(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """`state` under the names of `model`: the reader takes prefixes off that a network of your own may really have."""
    own = model.state_dict()
    if state.keys() & own.keys():
        return state
    for prefix in {key.split(".")[0] for key in own}:
        named = {f"{prefix}.{key}": value for key, value in state.items()}
        if named.keys() <= own.keys():
            return named
    return state


def _with_outputs_of(
    state: dict[str, torch.Tensor], model: nn.Module, name: str, size: tuple[int, int], channels: int
) -> nn.Module:
    """`model`, or one with a head for as many labels as that of `state`."""
    own = model.state_dict()
    others = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if not others or not all(key.endswith((".weight", ".bias")) for key in others):
        return model
    layer = others[0].rpartition(".")[0]
    if {key.rpartition(".")[0] for key in others} != {layer}:
        return model
    return build(name, len(state[others[0]]), image_size=size, channels=channels)


def _of_program(path: Path, options: SourceOptions) -> Foreign:
    network, (channels, height, width) = opened_program(path)
    preprocess, normalize = preset_of_own(
        str(path), (height, width), channels=channels, decode=options.decode or "exact", normalize=options.normalize
    )
    outputs = number_of_outputs(network, channels, (height, width), where=str(path))
    return Foreign(
        kind="program",
        backbone=path.name,
        module=network,
        labels=_as_many(options.known_labels, outputs, path.name),
        preprocess=_fitted(preprocess, options),
        normalize=normalize,
        sha256=state_sha256(network),
        training={"weights": path.name, "loading": f"{path.name}: a program of torch.export"},
    )


def _fitted(spec: Preprocess, options: SourceOptions) -> Preprocess:
    """`spec`, with photos that fit, and are resized, as the user says."""
    if options.resize not in (None, "crop"):
        spec = replace(spec, mode=options.resize, resize=0)
    if options.interpolation is not None:
        spec = replace(spec, interpolation=options.interpolation)
    if spec.problem is not None:
        raise UsageError(spec.problem, fix="--resize crop, --interpolation bilinear")
    return spec


def _as_many(labels: tuple[Label, ...] | None, outputs: int, where: str) -> tuple[Label, ...]:
    """`labels`, or numbers, when they are as many as the `outputs`."""
    check_decides(outputs, where)
    if labels is not None and len(labels) != outputs:
        raise UsageError(
            f"{where} gives {outputs} logits, but there are {len(labels)} labels",
            fix="give one label for each logit, in their order",
        )
    return labels or _numbers(outputs)


def _numbers(n: int) -> tuple[Label, ...]:
    return tuple(Label(str(number), str(number)) for number in range(n))


def reopened(folder: Path) -> Checkpoint | Foreign | None:
    """The network that the folder of a checkpoint, as a bundle keeps it, has: None where its code must be named.

    Raises `CheckpointError` when the folder is damaged.
    """
    about = read_about(folder)
    kind = about.source
    if kind in ("torchvision", "timm"):
        return Checkpoint.load(folder)
    if kind == "own":
        checkpoint = Checkpoint.load(folder)
        return checkpoint if can_be_built(checkpoint.backbone) else None
    if not about.files or kind not in SOURCES:
        return None
    opener: Any = importlib.import_module(SOURCES[kind].module)
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
    options = SourceOptions(
        normalize=about.normalize,
        image_size=about.preprocess.crop,
        channels=about.preprocess.channels,
        pixels=about.opening.get("pixels"),
    )
    return replace(open_source(spec, options), labels=about.labels, preprocess=about.preprocess)
