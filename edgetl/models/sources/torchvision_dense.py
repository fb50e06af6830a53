"""torchvision's detectors and segmentation networks by name, with the weights that are published for them.

A head comes with each (`edgetl.models.heads.published`): what is trained on other labels gets new last layers, all else
starts from the weights. torchvision's own code around the network - resizing, decoding, suppression - is left out: it
cannot be exported, and what it does is the device's.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from edgetl.models.checkpoint import Checkpoint
from edgetl.models.headed import HeadedNetwork
from edgetl.models.heads import HeadSpec
from edgetl.models.image_size import ImageSize, height_and_width
from edgetl.models.normalization import for_channels
from edgetl.models.published_heads import BoxesOfSsdLite, MasksOfDeepLab, MasksOfLrAspp
from edgetl.models.reaching import can_reach
from edgetl.models.sources import PUBLISHED, PUBLISHED_BOXES
from edgetl.models.sources.source_options import SourceOptions, numbers
from edgetl.models.weight_files import State, read_state
from edgetl.models.weights import fit
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess

__all__ = ["build", "check_weights", "converted", "labels_in", "load_own_weights", "opened", "preset"]

_IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What SSDLite's weights were trained with."""
_SIDE, _SHAPES = 320, 6
"""Pixels, and anchors at each place of SSDLite's maps."""
_HEAD = "head."


def build(name: str, num_classes: int, *, image_size: ImageSize | None, channels: int) -> nn.Module:
    """The network for so many labels, its outputs raw: a `HeadedNetwork`."""
    if channels != 3:
        raise UsageError(f"{name} takes images of 3 channels, not {channels}", fix="another backbone with --head")
    is_detector = PUBLISHED[name] == PUBLISHED_BOXES
    _check_size(name, image_size)
    made: Any = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes + is_detector, **_arguments(name)
    )
    if is_detector:
        return HeadedNetwork(made.backbone, BoxesOfSsdLite(made.head))
    masks = MasksOfLrAspp if name.startswith("lraspp") else MasksOfDeepLab
    return HeadedNetwork(made.backbone, masks(made.classifier))


def _arguments(name: str) -> dict[str, Any]:
    # The second classifier of some published weights only helped their training.
    return {"aux_loss": False} if name.startswith("deeplabv3") else {}


def _check_size(name: str, image_size: ImageSize | None) -> None:
    sides = height_and_width(_SIDE if image_size is None else image_size)
    if PUBLISHED[name] == PUBLISHED_BOXES and sides != (_SIDE, _SIDE):
        raise UsageError(
            f"{name} takes images of {_SIDE} x {_SIDE} pixels: its anchors are made for these",
            fix=f"--image-size {_SIDE}, or --backbone mobilenet_v3_large with --head ssdlite",
        )


def preset(
    name: str, image_size: ImageSize | None, *, channels: int, decode: str, normalize: Normalize | None
) -> tuple[Preprocess, Normalize]:
    """Photos are stretched, bilinearly, to 320 x 320 pixels unless `image_size` says otherwise."""
    _check_size(name, image_size)
    sides = height_and_width(_SIDE if image_size is None else image_size)
    usual = _HALF if PUBLISHED[name] == PUBLISHED_BOXES else _IMAGENET
    own = Normalize(for_channels(usual.mean, channels), for_channels(usual.std, channels))
    return Preprocess(0, sides, channels=channels, decode=decode, mode="stretch"), normalize or own


def check_weights(name: str) -> None:
    """Raise `CheckpointError` when the published weights are neither here nor can be had."""
    url = _weights(name).url
    cached = _cached(url)
    if not cached.is_file() and not can_reach(url):
        raise CheckpointError(
            f"the published weights of {name} are not here, and {urlparse(url).hostname} cannot be reached",
            fix=f"put {cached.name} into {cached.parent}, or name a file you have: --weights FILE.pth",
        )


def load_own_weights(model: nn.Module, name: str) -> str:
    """The published weights, downloaded once; layers for other labels stay as they are."""
    published = _weights(name)
    try:
        torch.hub.load_state_dict_from_url(published.url, map_location="cpu", check_hash=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"cannot load the published weights of {name}: {error}",
            fix=f"remove {_cached(published.url).name} from {_cached(published.url).parent} and try again",
        ) from error
    return f"{published}: {fit(model, read_state(_cached(published.url)).state, name, where=str(published))}"


def converted(name: str, model: nn.Module, state: State) -> State:
    """torchvision's names to ours: its ``classifier.`` is our ``head.``, a second classifier is left out."""
    kept: Mapping[str, torch.Tensor] = {
        key: value for key, value in state.items() if not key.startswith("aux_classifier.")
    }
    own = model.state_dict()
    renamed = {
        f"{_HEAD}{key.removeprefix('classifier.')}" if key.startswith("classifier.") else key: value
        for key, value in kept.items()
    }
    # The reader of files takes this prefix off, which classifiers have from other programs.
    return {key if key in own or f"backbone.{key}" not in own else f"backbone.{key}": v for key, v in renamed.items()}


def opened(name: str, options: SourceOptions) -> Checkpoint:
    """torchvision's network with the weights of the file in `options`, its head as it is there.

    Raises `UsageError` for labels that are not as many, `CheckpointError` for another network's weights.
    """
    # Here, because torchvision's detectors take a second to import.
    from edgetl.models.heads.published_boxes import published_settings

    path = options.weights
    assert path is not None
    file, boxes = read_state(path), PUBLISHED[name] == PUBLISHED_BOXES
    outputs = labels_in(name, file.state)
    usual = _published_labels(name)
    labels = options.known_labels or (usual if len(usual) == outputs else numbers(outputs))
    if len(labels) != outputs:
        raise UsageError(
            f"{path.name} knows {outputs} labels, and {len(labels)} are named",
            fix="one for each, in their order; a detector's background is none",
        )
    spec, normalize = preset(name, options.image_size, channels=3, decode="exact", normalize=options.normalize)
    model = build(name, outputs, image_size=spec.crop, channels=3)
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
    )


def labels_in(name: str, state: State) -> int:
    """How many labels a state dict of torchvision's knows, a detector's background not counted.

    Raises `CheckpointError` where it has no such head.
    """
    key = {
        "ssdlite320_mobilenet_v3_large": "head.classification_head.module_list.0.1.weight",
        "lraspp_mobilenet_v3_large": "classifier.low_classifier.weight",
    }.get(name, "classifier.4.weight")
    if key not in state:
        raise CheckpointError(f"these weights have no {key}: they are not {name}'s", fix="name their --backbone")
    outputs = int(state[key].shape[0])
    return outputs // _SHAPES - 1 if PUBLISHED[name] == PUBLISHED_BOXES else outputs


def _published_labels(name: str) -> tuple[Label, ...]:
    """Those of the published weights, by their place; a detector's without the background."""
    names = _weights(name).meta["categories"]
    own = names[1:] if PUBLISHED[name] == PUBLISHED_BOXES else names
    return tuple(Label(str(place), text.strip("_")) for place, text in enumerate(own))


def _weights(name: str) -> Any:
    return torchvision.models.get_model_weights(name).DEFAULT


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
