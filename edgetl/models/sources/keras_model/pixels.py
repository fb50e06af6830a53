"""How a Keras model takes pixels: read from its graph, else from its family's name, else asked for. Never guessed.

Accuracy on photos does not tell -1..1, ImageNet's mean and deviation, and 0..1 apart: networks with batch norms decide
nearly alike on all three.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgetl.models.sources.keras_model.modules import Scale
from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.manifest import Normalize

__all__ = ["CONVENTIONS", "Convention", "absorb", "convention_of"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE = (123.68, 116.779, 103.939)
"""Means of red, green, blue that were taken off the BGR images of Caffe."""


@dataclass(frozen=True)
class Convention:
    """``x = pixel * scale + shift`` in the order of RGB, then BGR where ``reverse`` says so."""

    name: str
    about: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    reverse: bool = False

    def apply(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, C) to what the user's model is given: their `preprocess_input`."""
        scale, shift = np.asarray(self.scale, np.float32), np.asarray(self.shift, np.float32)
        pixels = images.astype(np.float32) * scale + shift
        return np.ascontiguousarray(pixels[..., ::-1] if self.reverse else pixels)


CONVENTIONS: dict[str, Convention] = {
    "tf": Convention("tf", "-1..1", (1 / 127.5,), (-1.0,)),
    "torch": Convention(
        "torch",
        "ImageNet's mean and deviation",
        tuple(1 / (255 * std) for std in _IMAGENET[1]),
        tuple(-mean / std for mean, std in zip(*_IMAGENET, strict=True)),
    ),
    "caffe": Convention("caffe", "BGR, means taken off", (1.0,), tuple(-mean for mean in _CAFFE), reverse=True),
    "0..1": Convention("0..1", "0..1", (1 / 255,), (0.0,)),
    "0..255": Convention("0..255", "as they are", (1.0,), (0.0,)),
}
"""What ``--pixels`` may say: Keras' modes of `preprocess_input`, and pixels as they are or divided by 255."""

_INSIDE = "0..255"
_FAMILIES = (
    *(("mobilenetv3", None), ("mobilenet", "tf"), ("inception", "tf"), ("xception", "tf"), ("nasnet", "tf")),
    *(("resnet50v2", "tf"), ("resnet101v2", "tf"), ("resnet152v2", "tf"), ("resnet", "caffe"), ("vgg", "caffe")),
    ("densenet", "torch"),
)
"""Beginning of the name that `keras.applications` gives a model -> how it takes pixels, None where its graph says so.
The first that fits counts."""


def convention_of(model: Any, module: fx.GraphModule, said: str | None) -> tuple[Convention, str]:
    """How `model`, of which `module` is the translation, takes pixels, and where that is from.

    Raises `UsageError` when nobody says it, or `said` is unknown.
    """
    if said is not None:
        if said not in CONVENTIONS:
            raise UsageError(f"unknown --pixels {said!r}", fix=nearest(said, list(CONVENTIONS)))
        return CONVENTIONS[said], "as --pixels says"
    front = _front(module)
    if front and _is_of_bytes(front):
        return CONVENTIONS[_INSIDE], "the model itself scales them"
    if not front:
        for name in _names(model):
            family = next((mode for beginning, mode in _FAMILIES if name.startswith(beginning)), None)
            if family is not None:
                return CONVENTIONS[family], f"as the family of {name} takes them"
    raise UsageError(
        f"{model.name}: how does it take pixels? Neither its layers nor its name say it, and photos do not tell",
        fix="--pixels "
        + ", ".join(f"{one.name} ({one.about})" for one in CONVENTIONS.values())
        + ": as your preprocess_input did",
    )


def _names(model: Any) -> list[str]:
    """Names of the model and of the models in it, in small letters without underscores in front."""
    inner = [layer.name for layer in getattr(model, "layers", []) if hasattr(layer, "layers")]
    return [str(name).lower() for name in (*inner, model.name)]


def _front(module: fx.GraphModule) -> list[fx.Node]:
    """The calls at the beginning that scale pixels or change the order of colours."""
    node = next(node for node in module.graph.nodes if node.op == "placeholder")
    found: list[fx.Node] = []
    while len(node.users) == 1:
        (user,) = node.users
        is_scale = user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), Scale)
        if not is_scale and user.target is not torch.flip:
            break
        found.append(user)
        node = user
    return found


def _is_of_bytes(front: list[fx.Node]) -> bool:
    """Whether what the front does makes sense of pixels of 0..255 alone.

    What it makes of 0 and 255 is far apart enough, and near enough to 0, for a network; or means of such pixels are
    taken off."""
    module = front[0].graph.owning_module
    assert module is not None
    scale, shift = torch.ones(1), torch.zeros(1)
    for node in front:
        if node.op == "call_module":
            part = module.get_submodule(str(node.target))
            assert isinstance(part, Scale)
            scale, shift = scale * part.scale.reshape(-1), shift * part.scale.reshape(-1) + part.shift.reshape(-1)
    least, most = shift, 255 * scale + shift
    scaled = bool((most - least).abs().min() >= 0.5) and bool(torch.maximum(least.abs(), most.abs()).max() <= 16)
    means = bool((shift < -60).all()) and bool((scale == 1).all())
    return scaled or means


def absorb(module: fx.GraphModule, convention: Convention, channels: int) -> Normalize:
    """Take what the front of `module` does to pixels out of it, in place: gives the normalisation that does the same.

    Another order of colours goes into the first convolution. Raises `UsageError` where that cannot be done.
    """
    scale = torch.tensor(convention.scale, dtype=torch.float64).expand(channels).clone()
    shift = torch.tensor(convention.shift, dtype=torch.float64).expand(channels).clone()
    reverse = convention.reverse
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    for node in _front(module):
        if node.op == "call_module":
            part = module.get_submodule(str(node.target))
            assert isinstance(part, Scale)
            own_scale, own_shift = _in_order(part.scale, channels, reverse), _in_order(part.shift, channels, reverse)
            scale, shift = scale * own_scale, shift * own_scale + own_shift
        else:
            reverse = not reverse
        node.replace_all_uses_with(image)
        module.graph.erase_node(node)
    if reverse:
        _reverse_first(module, image)
    module.graph.lint()
    module.recompile()
    std = 1 / (255 * scale)
    return Normalize(tuple((-shift * std).tolist()), tuple(std.tolist()))


def _in_order(values: Tensor, channels: int, reverse: bool) -> Tensor:
    row = values.double().reshape(-1).expand(channels) if values.numel() == 1 else values.double().reshape(-1)
    return row.flip(0) if reverse else row


def _reverse_first(module: fx.GraphModule, image: fx.Node) -> None:
    """Let the first convolution read RGB where it read BGR."""
    node = image
    while len(node.users) == 1:
        (node,) = node.users
        part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(part, nn.Conv2d) and part.groups == 1:
            other = copy.deepcopy(part)  # the layer may be called elsewhere too
            other.weight.data = other.weight.data.flip(1).contiguous()
            node.target = f"{node.target}_rgb"
            module.add_submodule(node.target, other)
            return
        if not isinstance(part, nn.ZeroPad2d):
            break
    raise UsageError(
        "the model takes BGR, and does not begin with a convolution that could read RGB instead",
        fix="put a Conv2D first, or train it on RGB",
    )
