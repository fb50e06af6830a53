"""Networks of timm by name, ``timm:NAME``: its configuration says how photos go in, its hub has the weights."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from edgetl.models.image_size import ImageSize, height_and_width, size_text
from edgetl.models.normalization import for_channels
from edgetl.models.sources import TIMM
from edgetl.models.weight_files import State
from edgetl_runtime.errors import CheckpointError, MissingDependency, UsageError, nearest
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = ["build", "check_weights", "converted", "load_own_weights", "preset"]

_POSITIONS = "pos_embed"


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingDependency("timm", needed_for="a network of timm", extra="timm") from error
    return timm


def _known(name: str) -> str:
    bare = name.removeprefix(TIMM)
    timm = _timm()
    if not timm.is_model(bare):
        near = get_close_matches(bare, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError(
            f"timm has no network {bare!r}",
            fix=f"did you mean {' or '.join(near)}? All of them: timm.list_models()" if near else "timm.list_models()",
        )
    architecture, _, tag = bare.partition(".")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")] if tag else []
    if tag not in ("", *tags):
        raise UsageError(f"timm has no weights {tag!r} of {architecture}", fix=nearest(tag, tags))
    return bare


def _config(name: str) -> dict[str, Any]:
    """What timm has published of it: size, crop, interpolation, mean, std, classifier, where the weights are."""
    timm = _timm()
    config = timm.get_pretrained_cfg(_known(name))
    if config is None:
        raise UsageError(f"timm says nothing of how {name} takes photos", fix="one of: timm.list_pretrained()")
    values: dict[str, Any] = config.to_dict()
    return values


def build(name: str, num_classes: int, *, image_size: ImageSize | None, channels: int) -> nn.Module:
    """The network with random weights and timm's own head for so many labels.

    Raises `UsageError` for a name that timm does not know, and for sizes or channels that the network cannot have.
    """
    bare = _known(name)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    sides = _sides(name, image_size)
    if image_size is not None and sides != tuple(_config(name)["input_size"][1:]):
        arguments["img_size"] = sides
    timm = _timm()
    try:
        model = timm.create_model(bare, pretrained=False, **arguments)
    except TypeError as error:
        if "img_size" not in str(error) and "in_chans" not in str(error):
            raise
        # Most convolutional networks have no such argument: they take any size.
        arguments.pop("img_size", None)
        model = timm.create_model(bare, pretrained=False, **arguments)
    except (AssertionError, ValueError) as error:
        raise UsageError(
            f"{name} cannot take {size_text(sides)} pixels: {error}", fix="leave --image-size out"
        ) from error
    return _with_one_head(model)


def _with_one_head(model: nn.Module) -> nn.Module:
    """A network with its head where `edgetl.models.backbones.head_of` looks.

    Networks distilled with a second head give the mean of the two: one linear layer gives the same.
    """
    named = getattr(model, "default_cfg", {}).get("classifier")
    if isinstance(named, tuple | list):
        path, linear = _linear_of(model, str(named[0]))
        model = _without_second(model)
        model.set_submodule(path, _Averaged(linear.in_features, linear.out_features))
        named = f"{path}.linear"
    path = str(named or "head")
    layers = [
        f"{path}.{inner}" if inner else path
        for inner, item in model.get_submodule(path).named_modules()
        if isinstance(item, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear head", fix="another network: edgetl backbones")
    model.edgetl_head = layers[-1]  # type: ignore[assignment]
    return model


class _Averaged(nn.Module):
    """The one head of a network that was distilled with two: batch norm and linear layer, their sums made one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, given: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        logits: Tensor = self.linear(given)
        return logits

    def fuse(self) -> nn.Linear:
        """What the head around it asks for when it is made one layer: it is one."""
        return self.linear


def _linear_of(model: nn.Module, classifier: str) -> tuple[str, nn.Linear]:
    """Path of the head around the linear layer `classifier`, and that layer."""
    linear = model.get_submodule(classifier)
    assert isinstance(linear, nn.Linear)
    return classifier.rpartition(".")[0], linear


def _without_second(model: nn.Module) -> nn.Module:
    """`model` as its class without distillation computes it, in place: without the second head."""
    for holder in model.modules():
        if hasattr(holder, "head_dist"):
            del holder.head_dist
            if hasattr(holder, "distillation"):
                holder.distillation = False  # type: ignore[assignment]
            else:  # a subclass adds the second head: the class below it has one
                holder.__class__ = next(kind for kind in type(holder).__mro__[1:] if "forward_head" in vars(kind))
            return model
    raise UsageError(f"{type(model).__name__} has two heads", fix="another network: edgetl backbones")


def _sides(name: str, image_size: ImageSize | None) -> tuple[int, int]:
    if image_size is not None:
        return height_and_width(image_size)
    height, width = _config(name)["input_size"][1:]
    return int(height), int(width)


def preset(
    name: str, image_size: ImageSize | None, *, channels: int, decode: str, normalize: Normalize | None
) -> tuple[Preprocess, Normalize]:
    """The preprocessing that timm evaluates the network with; `image_size` keeps the ratio of resize to crop."""
    config = _config(name)
    sides = _sides(name, image_size)
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in ("bilinear", "bicubic"):
        raise UsageError(
            f"{name} was trained on images resized in a way that edgetl has not: {interpolation}",
            fix="another network: edgetl backbones",
        )
    mode = {"center": "crop", "squash": "stretch", "border": "letterbox"}[config.get("crop_mode") or "center"]
    resize: int | tuple[int, int] = 0
    if mode == "crop":
        height, width = (math.floor(side / float(config.get("crop_pct") or 0.875)) for side in sides)
        resize = height if sides[0] == sides[1] else (height, width)
    spec = Preprocess(resize, sides, interpolation, channels, decode, mode)
    published = Normalize(for_channels(config["mean"], channels), for_channels(config["std"], channels))
    return spec, normalize or published


def check_weights(name: str) -> None:
    """Raise `CheckpointError` when the weights are neither in the cache of the hub nor within reach."""
    from edgetl.models.reaching import can_reach

    config = _config(name)
    hub, url = config.get("hf_hub_id"), config.get("url")
    if not hub and not url:
        raise CheckpointError(
            f"timm publishes no weights of {name}", fix="--weights none --strategy full, or a file: --weights FILE"
        )
    if (hub and _is_cached(str(hub))) or can_reach(f"https://huggingface.co/{hub}" if hub else str(url)):
        return
    raise CheckpointError(
        f"the weights of {name} are not here, and the hub that timm keeps them on cannot be reached",
        fix="fetch them where there is a connection (timm.create_model(NAME, pretrained=True)) and copy the hub's "
        "cache, or name a file you have: --weights FILE.safetensors",
    )


def _is_cached(hub: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = hub.partition("@")
    files = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files)


def load_own_weights(model: nn.Module, name: str) -> str:
    """Put the published weights into `model`, all but a head of another size.

    Raises `CheckpointError` when they cannot be loaded.
    """
    from edgetl.models.weights import fit

    timm = _timm()
    try:
        source = timm.create_model(_known(name), pretrained=True)
    except Exception as error:  # the hub's client raises errors of three libraries
        raise CheckpointError(
            f"cannot load the weights of {name}: {str(error).strip()[:200]}",
            fix="try again, or name a file you have: --weights FILE.safetensors",
        ) from error
    tag = (getattr(source, "pretrained_cfg", None) or {}).get("tag") or "default"
    return f"{name} ({tag}): {fit(model, source.state_dict(), name, where=name)}"


def converted(name: str, model: nn.Module, state: State) -> State:
    """Two heads made one, and positions interpolated to the image size of `model`."""
    state = _one_head(model, state)
    own = model.state_dict()
    positions = state.get(_POSITIONS)
    if positions is not None and _POSITIONS in own and positions.shape != own[_POSITIONS].shape:
        from timm.layers.pos_embed import resample_abs_pos_embed

        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        prefix = int(getattr(model, "num_prefix_tokens", 1))
        before = 0 if getattr(model, "no_embed_class", False) else prefix
        state = {**state, _POSITIONS: resample_abs_pos_embed(positions, grid, num_prefix_tokens=before)}
    return state


def _one_head(model: nn.Module, state: State) -> State:
    """The batch norms and matrices of two heads as the one matrix that gives the mean of both."""
    named = getattr(model, "default_cfg", {}).get("classifier")
    if not isinstance(named, tuple | list) or f"{named[1]}.weight" not in state:
        return state
    matrices, biases = [], []
    for layer in named:
        norm = f"{layer.rpartition('.')[0]}.bn"
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        matrix = state[f"{layer}.weight"]
        matrices.append(matrix * scale)
        biases.append(state[f"{layer}.bias"] + matrix @ shift)
    heads = tuple(f"{layer.rpartition('.')[0]}." for layer in named)
    rest = {key: value for key, value in state.items() if not key.startswith(heads)}
    return {
        **rest,
        f"{heads[0]}linear.weight": torch.stack(matrices).mean(0),
        f"{heads[0]}linear.bias": torch.stack(biases).mean(0),
    }
