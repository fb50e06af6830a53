"""Weights for a backbone: published ones, files, or none; what is loaded, what is replaced, what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from edgetl.models.backbones import backbone_names, build, first_convolution, head_of, published_weights
from edgetl.models.headed import HeadedNetwork
from edgetl.models.reaching import can_reach
from edgetl.models.sources import named_source
from edgetl.models.weight_files import CHECKPOINT_WEIGHTS, State, read_state
from edgetl_export.soundness import check_finite
from edgetl_runtime.errors import CheckpointError

__all__ = [
    "Weights",
    "adapt_channels",
    "check_weights_available",
    "fit",
    "infer_channels",
    "infer_num_classes",
    "load_weights",
    "parse_weights",
    "put_back",
]

Weights: TypeAlias = Literal["imagenet", "none"] | Path

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index", "attn_mask")
_SHOWN = 4


def parse_weights(text: str | Path) -> Weights:
    """``imagenet``, ``none`` or a file, as it is given in a command or a recipe; of a checkpoint's folder its file."""
    if text == "imagenet":
        return "imagenet"
    if text == "none":
        return "none"
    inside = Path(text) / CHECKPOINT_WEIGHTS
    return inside if inside.is_file() else Path(text)


def check_weights_available(name: str, weights: Weights) -> None:
    """Fail before any work when `weights` cannot be had: no such file, or neither a cached copy nor a network.

    Takes at most a few seconds. Raises `CheckpointError`.
    """
    if isinstance(weights, Path):
        if weights.is_dir():
            raise CheckpointError(f"{weights} is a folder and no checkpoint", fix="name a file of weights in it")
        if not weights.exists():
            raise CheckpointError(f"no weights file at {weights}", fix="check the path given with --weights")
        return
    if weights == "none":
        return
    source = named_source(name)
    if source is not None:
        source.check_weights(name)
        return
    url = published_weights(name, "best").url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if cached.is_file() or can_reach(url):
        return
    raise CheckpointError(
        f"the ImageNet weights of {name} are not here, and {urlparse(url).hostname} cannot be reached",
        fix=f"put {cached.name} into {cached.parent}, or name a file you have: --weights FILE.pth or FILE.safetensors",
    )


def load_weights(model: nn.Module, name: str, weights: Weights) -> str:
    """Fill `model` (of backbone `name`) in place; returns one line that says what was done.

    A head of another size is left as it was initialised, a first layer for another number of channels is adapted.
    Raises `CheckpointError` when weights are missing, damaged or of another architecture.
    """
    if weights == "none":
        return f"{name} starts from random weights"
    if isinstance(weights, Path):
        file = read_state(weights)
        done = fit(model, file.state, name, where=str(weights))
        return f"{weights.name}: {'; '.join((*file.notes, done))}"
    check_weights_available(name, weights)
    other = named_source(name)
    if other is not None:
        return other.load_own_weights(model, name)
    published = published_weights(name, "best")
    try:
        source = torchvision.models.get_model(name, weights=published)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"cannot load the ImageNet weights of {name}: {error}",
            fix=f"remove {Path(published.url).name} from {torch.hub.get_dir()}/checkpoints and try again",
        ) from error
    return f"{published}: {fit(model, source.state_dict(), name, where=str(published))}"


def infer_num_classes(state: State) -> int:
    """How many logits a state dict gives. Raises `CheckpointError` when it has no head that edgetl knows."""
    return int(state[_head_key(state)].shape[0])


def infer_channels(state: State, name: str) -> int:
    """How many channels the images have that a state dict of backbone `name` is for; 3 where it has no such layer."""
    with torch.random.fork_rng(devices=()):  # building draws weights, and nobody asked for them
        key = _first_key(build(name, 1))
    weight = state.get(key)
    return 3 if weight is None or weight.ndim != 4 else int(weight.shape[1])


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """The weights (outputs, C, h, w) of a first layer, for images of `channels` channels instead of C.

    A single channel gets their average times C, which is their sum: so a grey image gives what it gave repeated in C
    channels, and the layers behind meet what they were trained on. More get them in turns (0, 1, 2, 0 for four of
    three), times C / `channels`, so that channels which are all alike give the same too, where the weights are.
    """
    of = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % of] * (of / channels)


def _first_key(model: nn.Module) -> str:
    return f"{first_convolution(model)[0]}.weight"


def _head_key(state: State) -> str:
    """The last matrix (or 1 x 1 convolution) of classifier, fc, heads or head; file formats may sort keys."""
    for block in ("classifier", "fc", "heads", "head"):
        keys = [
            key
            for key, value in state.items()
            if key.startswith(f"{block}.") and key.endswith(".weight") and value.ndim in (2, 4)
        ]
        if keys:
            return max(keys, key=lambda key: [(part.isdigit(), part.zfill(4)) for part in key.split(".")])
    raise CheckpointError(
        "these weights have no head: no classifier, fc, heads or head", fix="a torchvision state dict"
    )


def fit(model: nn.Module, state: State, name: str, *, where: str, keep_head: bool = False) -> str:
    """Copy `state` into `model` in place, in the model's dtype; returns one line that says what was done.

    A head of another size stays as it is, and a first layer for another number of channels is adapted (see
    `adapt_channels`), unless `keep_head`. Raises `CheckpointError` for anything else that differs, naming the first
    keys and, when it can be told, the backbone that the weights belong to.
    """
    own: State = model.state_dict()
    check_finite(state, where)
    source = named_source(name)
    if source is None:
        state = _at_size_of(own, {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}, name)
    else:
        state = dict(source.converted(name, model, state))
    notes = [] if keep_head else _adapt_first(model, state)
    head = head_of(model)[0]
    notes += _rename_head(own, state, head)
    have, want = _outputs(state, head), _outputs(own, head)
    new_head = have is not None and have != want and not keep_head
    left_alone = {key for key in own if new_head and key.startswith(f"{head}.")}
    if isinstance(model, HeadedNetwork) and not keep_head:  # there each map, or each branch, has a last layer
        left_alone = {key for key in own if key.startswith("head.") and _other_shape(own, state, key)}
        new_head = False
        notes += ["last layers for other labels start anew"] if left_alone else []
    problems = _differences(own, state, left_alone, name)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        raise CheckpointError(f"{where} does not fit {name}: {shown}", fix=_who_fits(own, state, head))
    with torch.no_grad():
        for key, value in own.items():
            if key in state and key not in left_alone:
                value.copy_(state[key])
    if new_head:
        notes.insert(0, f"head of {have} outputs replaced by one of {want}")
    return "; ".join(notes) or "loaded whole"


def put_back(model: nn.Module, state: State, *, where: str = "the network") -> None:
    """Copy the `state` that `model` itself had, into it. Unlike `torch.nn.Module.load_state_dict` this asks for no
    version, without which MNASNet refuses: tensors alone are kept. Raises `CheckpointError` when the code of `where`
    gives another network now."""
    problems = _differences(model.state_dict(), state, set(), where)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        raise CheckpointError(f"the weights do not fit {where}: {shown}", fix="the code that the weights are of")
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key in state:
                value.copy_(state[key])


def _adapt_first(model: nn.Module, state: State) -> list[str]:
    """Adapt the first layer's weights in `state`, and say so, where they are for another number of channels."""
    key = _first_key(model)
    weight, channels = state.get(key), model.get_parameter(key).shape[1]
    if weight is None or weight.ndim != 4 or weight.shape[1] == channels:
        return []
    state[key] = adapt_channels(weight, channels)
    how = "summed up" if channels == 1 else "repeated and rescaled"
    return [f"first layer adapted from {weight.shape[1]} channels to {channels}: its weights are {how}"]


def _rename_head(own: State, state: State, head: str) -> list[str]:
    """Give the last layer in `state` the name that it has in the network, and say so, where it is a linear layer behind
    something without weights (dropout), or stands in place of a block that has one layer."""
    if f"{head}.weight" in state:
        return []
    block = head.split(".")[0]
    alone = sum(key.startswith(f"{block}.") and key.endswith("weight") for key in own) == 1
    inside = [key for key in state if key.startswith(f"{block if alone else head}.")]
    layers = {key.rpartition(".")[0] for key in inside}
    parts = {key.rpartition(".")[2] for key in inside}
    wanted = {key.rpartition(".")[2] for key in own if key.rpartition(".")[0] == head}
    if len(layers) != 1 or parts != wanted:
        return []
    (found,) = layers
    if state[f"{found}.weight"].ndim != own[f"{head}.weight"].ndim:
        return []
    for part in parts:
        state[f"{head}.{part}"] = state.pop(f"{found}.{part}")
    return [f"{found} was taken for the last layer, with nothing but dropout around it"]


def _other_shape(own: State, state: State, key: str) -> bool:
    return key in state and state[key].shape != own[key].shape


def _outputs(state: State, head: str) -> int | None:
    weight = state.get(f"{head}.weight")
    return None if weight is None else int(weight.shape[0])


def _differences(own: State, state: State, left_alone: set[str], name: str) -> list[str]:
    found = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    found += [f"{key} is not part of {name}" for key in state if key not in own]
    found += [
        f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if key in state and key not in left_alone and value.shape != state[key].shape
    ]
    return found


def _at_size_of(own: State, state: State, name: str) -> State:
    """A vision transformer's position embedding, interpolated to the image size that the model was built for."""
    key = "encoder.pos_embedding"
    if key not in own or key not in state or own[key].shape == state[key].shape:
        return state
    patch = int(name.rsplit("_", 1)[1])
    side = round((own[key].shape[1] - 1) ** 0.5)
    return dict(interpolate_embeddings(image_size=side * patch, patch_size=patch, model_state=state))


def _who_fits(own: State, state: State, head: str) -> str:
    """What to do about a `state` that does not fit a network whose own is `own`: mend the head, where all else fits, or
    take one of the backbones with as many parameters as `state` would have with a head for ImageNet's 1000 labels."""
    block = head.split(".")[0]
    new_blocks = {key.split(".")[0] for key in state.keys() - own.keys()}
    if "head" in new_blocks and _outside(state, "head").keys() < own.keys():
        return "they are of a network with a head of its own, for boxes or masks: take the weights that it began with"
    if _outside(own, block) == _outside(state, block):
        return f"its last layers are others than torchvision's: save it with one linear layer called {head}"
    try:
        key = _head_key(state)
    except CheckpointError:
        return "name the backbone these weights were made for, with --backbone"
    outputs, inputs = state[key].shape[:2]
    per_output = inputs + (f"{key.removesuffix('weight')}bias" in state)
    count = sum(value.numel() for name, value in state.items() if not name.endswith(_BUFFERS))
    count += (1000 - outputs) * per_output
    fitting = [name for name in backbone_names() if published_weights(name, "first").meta["num_params"] == count]
    if not fitting:
        return "name the backbone these weights were made for, with --backbone"
    return f"these look like weights for: --backbone {' or '.join(fitting)}"


def _outside(state: State, block: str) -> dict[str, tuple[int, ...]]:
    """The parameters that are not in this block, and their shapes."""
    inside = {key for key in state if key.split(".")[0] == block or key.endswith(_BUFFERS)}
    return {key: tuple(value.shape) for key, value in state.items() if key not in inside}
