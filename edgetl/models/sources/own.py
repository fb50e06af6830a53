"""A network of your own: ``module.py:function``, or a module in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetl.models.checkpoint import Checkpoint
from edgetl.models.image_size import ImageSize, height_and_width
from edgetl.models.sources import allow_code
from edgetl.models.sources.own_code import made, named_head, remember
from edgetl.models.sources.source_options import SourceOptions
from edgetl.models.weight_files import State, read_state
from edgetl.models.weights import put_back
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = [
    "build",
    "check_weights",
    "converted",
    "find_head",
    "load_own_weights",
    "number_of_outputs",
    "opened",
    "preset",
]

_USUAL_SIZE = 224


def build(name: str, num_classes: int, *, image_size: ImageSize | None, channels: int) -> nn.Module:
    """The network with a head for so many labels: another one where its own has another size.

    The head is the layer called ``HEAD`` in the file, else the last linear layer (or 1 x 1 convolution) on the way to
    the outputs. Raises `UsageError` when there is none, and what `made` raises.
    """
    model = made(name, num_classes=num_classes, image_size=image_size, channels=channels)
    if next(model.parameters(), torch.empty(0)).is_meta:
        raise NotImplementedError("sizes are computed with values")
    example = torch.zeros(2, channels, *height_and_width(_USUAL_SIZE if image_size is None else image_size))
    try:
        path = find_head(model, example, named_head(name), where=name)
    except UsageError:
        if _run(model, example, name).shape[1] != num_classes:
            raise
        return model  # nothing is to be replaced
    head = model.get_submodule(path)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    if head.weight.shape[0] != num_classes:
        model.set_submodule(path, _other_head(head, num_classes))
    # Where `edgetl.models.backbones.head_of` looks.
    model.edgetl_head = path  # type: ignore[assignment]
    return model


def _other_head(head: nn.Linear | nn.Conv2d, num_classes: int) -> nn.Module:
    if isinstance(head, nn.Linear):
        return nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    return nn.Conv2d(head.in_channels, num_classes, 1, bias=head.bias is not None)


def number_of_outputs(model: nn.Module, channels: int, image_size: ImageSize, *, where: str) -> int:
    """How many logits `model` gives for an image. Raises `UsageError` when that is no row of logits."""
    example = torch.zeros(2, channels, *height_and_width(image_size))
    return int(_run(model, example, where).shape[1])


def _run(model: nn.Module, example: Tensor, where: str) -> Tensor:
    """(N, labels) of `example`."""
    training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(example)
    except EdgetlError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"{where} cannot take {list(example.shape)}: {type(error).__name__}: {str(error).strip()[:200]}",
            fix="its own size: --image-size N or HxW, and --channels",
        ) from error
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(example):
        is_tensor = isinstance(outputs, Tensor)
        what = f"{list(outputs.shape)} for {len(example)} images" if is_tensor else type(outputs).__name__
        raise UsageError(f"{where} gives {what}, no logits (N, labels)", fix="return one row of logits for each image")
    if outputs.shape[1] > 1 and bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones(1), atol=1e-4):
        raise UsageError(
            f"{where} gives probabilities: a loss, and the runtime, would take their softmax a second time",
            fix="return the logits, which go into the softmax: of an nn.Sequential that ends with it network[:-1], of "
            "several networks the mean of their logits",
        )
    return outputs


def find_head(model: nn.Module, example: Tensor, named: str | None = None, *, where: str = "the network") -> str:
    """Path of the layer that gives the logits: `named`, else the last one to run whose rows are the outputs'.

    `example` is (N, C, H, W). Raises `UsageError` when there is none.
    """
    layers = {path: item for path, item in model.named_modules() if isinstance(item, nn.Linear | nn.Conv2d)}
    if named is not None:
        if named not in layers:
            raise UsageError(f"{where} has no linear layer called {named!r}", fix=f"one of: {', '.join(layers)}")
        return named
    ran: list[tuple[str, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, output, path=path: ran.append((path, output)))
        for path, layer in layers.items()
    ]
    try:
        outputs = _run(model, example, where)
    finally:
        for hook in hooks:
            hook.remove()
    for path, output in reversed(ran):
        if output.shape[1] == outputs.shape[1] and output.numel() == outputs.numel():
            return path
    raise UsageError(
        f"the last layer of {where} was not found: no linear layer gives its {outputs.shape[1]} outputs",
        fix='name it in the file: HEAD = "path.of.the.layer"',
    )


def preset(
    name: str, image_size: ImageSize | None, *, channels: int, decode: str, normalize: Normalize | None
) -> tuple[Preprocess, Normalize]:
    """Photos as torchvision's usual presets have them: the shorter side to 256/224 of the image size, centre crop.

    Raises `UsageError` where the image size, or how pixels are normalised, is not said.
    """
    if image_size is None:
        raise UsageError(f"{name}: images of which size does it take?", fix="--image-size 224, or HxW")
    if normalize is None:
        raise UsageError(
            f"{name}: how does it take pixels? They become (pixel / 255 - mean) / std",
            fix="--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 for ImageNet's, --mean 0 --std 1 for 0..1",
        )
    height, width = height_and_width(image_size)
    resize = (round(height * 256 / 224), round(width * 256 / 224))
    return (
        Preprocess(
            resize=resize[0] if height == width else resize, crop=(height, width), channels=channels, decode=decode
        ),
        _spread(normalize, channels),
    )


def _spread(normalize: Normalize, channels: int) -> Normalize:
    if len(normalize.mean) not in (1, channels):
        raise UsageError(
            f"mean and std are of {len(normalize.mean)} channels, the images have {channels}",
            fix="one for each, or one",
        )
    n = channels // len(normalize.mean)
    return Normalize(normalize.mean * n, normalize.std * n)


def check_weights(name: str) -> None:
    """Nothing to fetch: the weights are what the function gives."""


def load_own_weights(model: nn.Module, name: str) -> str:
    """They are there already."""
    return f"{name}: weights as it gives them"


def converted(name: str, model: nn.Module, state: State) -> State:
    """As it is."""
    return state


def opened(spec: Any, options: SourceOptions) -> Checkpoint:
    """The network of a name or a module in memory, with its own weights or those of a file.

    Its labels are as many as its outputs. Raises `UsageError` for what is no module, for what is not said or does not
    fit, and what `made` raises; `CheckpointError` for weights that do not fit.
    """
    if isinstance(spec, str | Path):
        name = str(spec)
        allow_code(name)
    elif isinstance(spec, nn.Module):
        name = remember(spec, head=options.head)
    else:
        raise UsageError(
            f"{type(spec).__name__} is no network", fix="a torch.nn.Module, a Keras model, a path or a name"
        )
    channels, decode = options.channels or 3, options.decode or "exact"
    preprocess, normalize = preset(
        name, options.image_size, channels=channels, decode=decode, normalize=options.normalize
    )
    preprocess = options.fitted(preprocess)
    labels = options.known_labels
    model = made(
        name, num_classes=None if labels is None else len(labels), image_size=options.image_size, channels=channels
    ).eval()
    weights, note = "own", load_own_weights(model, name)
    if options.weights is not None:
        read = read_state(options.weights)
        state = _same_prefix(read.state, model)
        model = _with_outputs_of(state, model, name, preprocess.crop, channels)
        put_back(model, state, where=name)
        weights, note = options.weights.name, "; ".join((*read.notes, f"{options.weights.name} loaded whole"))
    return Checkpoint.of(
        model,
        backbone=name,
        labels=options.labels_for(number_of_outputs(model, channels, preprocess.crop, where=name), name),
        preprocess=preprocess,
        normalize=normalize,
        training={"weights": weights, "loading": note},
    )


def _same_prefix(state: State, model: nn.Module) -> State:
    """`state` under the names of `model`: the reader takes prefixes off that a network of your own may really have."""
    own = model.state_dict()
    if state.keys() & own.keys():
        return state
    for prefix in {key.split(".")[0] for key in own}:
        named = {f"{prefix}.{key}": value for key, value in state.items()}
        if named.keys() <= own.keys():
            return named
    return state


def _with_outputs_of(state: State, model: nn.Module, name: str, size: tuple[int, int], channels: int) -> nn.Module:
    """`model`, or one with a head for as many labels as that of `state`."""
    own = model.state_dict()
    others = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if not others or not all(key.endswith((".weight", ".bias")) for key in others):
        return model
    layer = others[0].rpartition(".")[0]
    if {key.rpartition(".")[0] for key in others} != {layer}:
        return model
    return build(name, len(state[others[0]]), image_size=size, channels=channels)
