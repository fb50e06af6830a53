"""Architectures by name: every torchvision classifier, its head, its stages, its published preprocessing.

torchvision's own classifiers are the table of backbones: what others register with it is not among them. `TRIED` says
which targets a backbone has been taken to. A network of another make is exported by `edgetl_export.export`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgetl.models.headed import HeadedNetwork
from edgetl.models.image_size import ImageSize, height_and_width, size_text
from edgetl.models.normalization import for_channels
from edgetl.models.sources import TIMM, named_source
from edgetl.models.sources.timm_table import COUNTED, TRIED_OF_TIMM
from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.manifest import Normalize, Preprocess

try:
    import torchvision
except RuntimeError as misfit:  # of the other of CPU and CUDA: it brings operators that this torch does not load
    raise UsageError(
        f"torchvision does not fit torch {torch.__version__}: {misfit}",
        fix="install both from one index: pip install --force-reinstall torch torchvision --index-url URL",
    ) from misfit

__all__ = [
    "TRIED",
    "BackboneInfo",
    "HiddenHead",
    "WeightsPreset",
    "add_hidden_layer",
    "backbone_names",
    "build",
    "first_convolution",
    "head_block",
    "head_of",
    "list_backbones",
    "preset",
    "published_weights",
    "size_of",
    "stages",
    "timm_backbones",
]

WeightsPreset: TypeAlias = Literal["first", "best"]
"""Which published weights of a backbone are meant: the first ones, or those that torchvision calls the default."""

_EVERYWHERE = (
    *("mobilenet_v2", "efficientnet_b0", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0"),
    *("resnet18", "resnet50", "resnext50_32x4d", "regnet_y_400mf", "densenet121", "googlenet", "inception_v3"),
    *("efficientnet_v2_s", "convnext_tiny", "vit_b_16", "swin_t", "alexnet", "vgg11_bn"),
)
TRIED: dict[str, tuple[str, ...]] = {"onnx": _EVERYWHERE, "tflite": _EVERYWHERE, "openvino": _EVERYWHERE}
"""Target -> backbones that have been exported to it as fp32 and int8, and verified: fp32 decides like the original."""

_HEADS = ("classifier", "fc", "heads", "head")
_TWO_STAGES = ("fasterrcnn_", "maskrcnn_", "keypointrcnn_")
"""Detectors of torchvision that choose regions first."""
# Modules that hold a sequence of stages; anything else is a stage as a whole.
_SEQUENCES = {"features", "layers", "blocks", "stages", "trunk_output", "encoder", "backbone", "network"}
# Auxiliary outputs only ever helped training from scratch. The published weights of both expect the first
# layer to bring ImageNet statistics to theirs (`transform_input`).
_BUILD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}
_SMALLEST_IMAGE = 32
_LARGEST_IMAGE = 2**14  # as in manifests
_MOST_CHANNELS = 256


@dataclass(frozen=True)
class BackboneInfo:
    """What is published of a backbone's default weights.

    ``params`` and ``gmacs`` are for 1000 labels at ``image_size`` pixels; ``top1`` is the ImageNet accuracy in percent,
    None where the library does not publish it.
    """

    name: str
    params: int
    gmacs: float
    image_size: int
    top1: float | None
    tried: dict[str, bool]


def backbone_names() -> list[str]:
    """All known names, sorted."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build(name: str, num_classes: int, *, image_size: ImageSize | None = None, channels: int = 3) -> nn.Module:
    """A randomly initialised network: float32 (N, `channels`, H, W) to logits (N, `num_classes`), one tensor.

    `image_size`, in pixels the side or (height, width), matters to transformers only, whose weights depend on it.
    Raises `UsageError` for an unknown name, and for a size or channels that the architecture cannot have.
    """
    source = named_source(name)
    _require_channels(name, channels)
    if source is not None:
        return source.build(name, num_classes, image_size=image_size, channels=channels)
    _require_known(name)
    arguments = dict(_BUILD_ARGUMENTS.get(name, {}))
    if image_size is not None:
        arguments |= _size_arguments(name, image_size)
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if channels != 3:
        path, convolution = first_convolution(model)
        model.set_submodule(path, _reading(convolution, channels))
    return model


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The layer that reads the image, and its path. Raises `UsageError` for a network that begins otherwise."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return path, module
    raise UsageError(f"{type(model).__name__} has no convolution that reads the image", fix="choose another backbone")


def _reading(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A layer like `convolution` for so many channels, its random weights of the variance that the sum of products of
    independent channels has in the original."""
    made = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        # By a tensor, because on the meta device, where sizes are computed, it has no value.
        made.weight.normal_().mul_(convolution.weight.std() * (convolution.in_channels / channels) ** 0.5)
        if made.bias is not None and convolution.bias is not None:
            made.bias.copy_(convolution.bias)
    return made


def _require_channels(name: str, channels: int) -> None:
    if not 1 <= channels <= _MOST_CHANNELS:
        raise UsageError(f"an image cannot have {channels} channels", fix=f"1 to {_MOST_CHANNELS}")
    if channels != 3 and "transform_input" in _BUILD_ARGUMENTS.get(name, {}):
        raise UsageError(
            f"{name} cannot take images of {channels} channels: it begins by changing the statistics of RGB",
            fix="choose another backbone, such as mobilenet_v2",
        )


def _size_arguments(name: str, image_size: ImageSize) -> dict[str, Any]:
    height, width = height_and_width(image_size)
    arguments: dict[str, Any]
    if name.startswith("vit_"):
        step, arguments = int(name.rsplit("_", 1)[1]), {"image_size": height}
    elif name.startswith("maxvit_"):
        step, arguments = 224, {"input_size": (height, width)}
    else:
        return {}
    if height != width:
        raise UsageError(
            f"{name} takes square images only, not {size_text(image_size)}: torchvision's has positions for a square",
            fix=f"one number, a multiple of {step}, or another backbone, such as swin_t or mobilenet_v2",
        )
    if height % step:
        raise UsageError(f"{name} cannot take {height} x {width} pixels", fix=f"a multiple of {step}")
    return arguments


def head_of(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The layer that gives the logits, and its path: the last linear layer of classifier, fc, heads or head.

    SqueezeNet's is the last 1 x 1 convolution instead. Raises `UsageError` for a network that has none.
    """
    named = getattr(model, "edgetl_head", None)
    if isinstance(named, str):
        layer = model.get_submodule(named)
        assert isinstance(layer, nn.Linear | nn.Conv2d | HiddenHead)
        return _end_of(named, layer)
    for attribute in _HEADS:
        block = getattr(model, attribute, None)
        if isinstance(block, nn.Module):
            layers = [(path, item) for path, item in block.named_modules() if isinstance(item, nn.Linear | nn.Conv2d)]
            if layers:
                path, layer = layers[-1]
                return (f"{attribute}.{path}" if path else attribute), layer
    raise UsageError(
        f"{type(model).__name__} has no head that can be replaced", fix=f"a linear layer in one of: {', '.join(_HEADS)}"
    )


def _end_of(path: str, layer: nn.Linear | nn.Conv2d | nn.Sequential) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The layer, or the last one of a `HiddenHead` that took its place."""
    if not isinstance(layer, nn.Sequential):
        return path, layer
    last = layer[-1]
    assert isinstance(last, nn.Linear)
    return f"{path}.{len(layer) - 1}", last


class HiddenHead(nn.Sequential):
    """A head with a hidden layer: linear, ReLU (which costs nothing in integers), linear."""


def add_hidden_layer(model: nn.Module, width: int) -> None:
    """Replace the linear head of `model` by a `HiddenHead` of `width` with as many outputs, in place.

    Raises `UsageError` for a head that is not linear.
    """
    path, head = head_of(model)
    if not isinstance(head, nn.Linear):
        raise UsageError(f"{type(model).__name__} has no linear head to put a layer before", fix="leave hidden out")
    layers = nn.Linear(head.in_features, width), nn.ReLU(), nn.Linear(width, head.out_features)
    model.set_submodule(path, HiddenHead(*layers))


def head_block(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of what a backbone gets for its labels: the last layer, the `HiddenHead` that it ends, or the
    head behind its maps."""
    if isinstance(model, HeadedNetwork):
        return "head", model.head
    path, head = head_of(model)
    parent = path.rpartition(".")[0]
    block = model.get_submodule(parent)
    return (parent, block) if isinstance(block, HiddenHead) else (path, head)


def stages(model: nn.Module) -> list[list[nn.Module]]:
    """The backbone in the order of the data, without the head: the units that ``last:N`` trains or freezes.

    A normalisation layer that stands alone belongs to the stage before it.
    """
    found: list[list[nn.Module]] = []
    for module in _units(model, head_block(model)[0]):
        if found and _only_normalises(module):
            found[-1].append(module)
        else:
            found.append([module])
    return found


def _units(parent: nn.Module, head: str, prefix: str = "") -> Iterator[nn.Module]:
    for name, child in parent.named_children():
        path = prefix + name
        if path == head or next(child.parameters(), None) is None:
            continue
        if name in _SEQUENCES or head.startswith(f"{path}."):
            yield from _units(child, head, f"{path}.")
        else:
            yield child


def _only_normalises(module: nn.Module) -> bool:
    layers = [item for item in module.modules() if next(item.parameters(recurse=False), None) is not None]
    return all("Norm" in type(item).__name__ for item in layers)


def published_weights(name: str, which: WeightsPreset) -> Any:
    """A member of torchvision's weights enum of the backbone: ``url``, ``transforms()``, ``meta``."""
    _require_known(name)
    members = list(torchvision.models.get_model_weights(name))
    return members[0] if which == "first" else members[0].__class__.DEFAULT


def preset(
    name: str,
    image_size: ImageSize | None = None,
    *,
    which: WeightsPreset = "first",
    channels: int = 3,
    decode: str = "exact",
    mode: str = "crop",
    normalize: Normalize | None = None,
) -> tuple[Preprocess, Normalize]:
    """The preprocessing that published weights were made for; `image_size` keeps the ratio of resize to crop.

    For a square of side s the photo's shorter side becomes s times that ratio. For (height, width) the photo becomes
    as small as covers both sides times that ratio, its proportions kept; the centre is cut out. So a photo of the
    crop's own proportions loses as much on all sides as it would of a square, and none is stretched or padded.
    `decode` is how JPEG files are decoded, `mode` how photos become as large as the tensor, see `Preprocess`.

    One channel is normalised with the average of the published means and of the published deviations, more than three
    with theirs in turns. `normalize` is what the user says of it, which only a network of their own needs. Raises
    `UsageError` for an unknown name, and for a size or channels that the backbone cannot work with.
    """
    source = named_source(name)
    if source is not None:
        _require_channels(name, channels)
        spec, own = source.preset(name, image_size, channels=channels, decode=decode, normalize=normalize)
        _check_size(spec.crop)
        return spec if mode == "crop" else replace(spec, mode=mode, resize=0), own
    published = published_weights(name, which).transforms()
    _require_channels(name, channels)
    resize, crop = int(published.resize_size[0]), int(published.crop_size[0])
    sides = height_and_width(crop if image_size is None else image_size)
    if image_size is not None:
        _check_size(sides)
        _size_arguments(name, image_size)
        _check_layers_take(name, sides, channels)
    height, width = (round(side * resize / crop) for side in sides)
    return (
        Preprocess(
            resize=0 if mode != "crop" else height if sides[0] == sides[1] else (height, width),
            crop=sides,
            interpolation=published.interpolation.value,
            channels=channels,
            decode=decode,
            mode=mode,
        ),
        normalize or Normalize(mean=for_channels(published.mean, channels), std=for_channels(published.std, channels)),
    )


def _check_size(sides: tuple[int, int]) -> None:
    if min(sides) < _SMALLEST_IMAGE:
        raise UsageError(
            f"image size {size_text(sides)} is too small", fix=f"{_SMALLEST_IMAGE} pixels or more on each side"
        )
    if max(sides) > _LARGEST_IMAGE:
        raise UsageError(
            f"image size {size_text(sides)} is too large", fix=f"{_LARGEST_IMAGE} pixels or fewer on each side"
        )


def size_of(name: str, num_classes: int, image_size: ImageSize, *, channels: int = 3) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one image of so many pixels in convolutions and matrix products."""
    model = _without_memory(name, num_classes, image_size, channels)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, channels, *height_and_width(image_size), device="meta"))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def _without_memory(name: str, num_classes: int, image_size: ImageSize, channels: int) -> nn.Module:
    """The network in eval mode without values: it computes shapes, and nothing else."""
    try:
        with torch.device("meta"):
            return build(name, num_classes, image_size=image_size, channels=channels).eval()
    except (NotImplementedError, RuntimeError):  # RegNets compute their widths with tensors
        return build(name, num_classes, image_size=image_size, channels=channels).to("meta").eval()


@functools.cache
def _check_layers_take(name: str, sides: tuple[int, int], channels: int) -> None:
    """Raise `UsageError` for a size of which a layer in the middle has nothing left to look at."""
    model = _without_memory(name, 2, sides, channels)
    try:
        with torch.no_grad():
            model(torch.empty(1, channels, *sides, device="meta"))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        own = int(published_weights(name, "first").transforms().crop_size[0])
        raise UsageError(
            f"{name} cannot take {size_text(sides)} pixels (height x width): {reason}",
            fix=f"longer sides: its own are {own}, or another backbone, such as mobilenet_v2",
        ) from None


def list_backbones() -> list[BackboneInfo]:
    """All backbones with what is published of them; no network is built."""
    return [_info(name) for name in backbone_names()]


def timm_backbones() -> list[BackboneInfo]:
    """Those of timm that were tried, with what was counted of them; nothing of timm is imported."""
    return [
        BackboneInfo(f"{TIMM}{name}", params, gmacs, size, None, dict.fromkeys(TRIED, name in TRIED_OF_TIMM))
        for name, (params, gmacs, size) in COUNTED.items()
    ]


def _info(name: str) -> BackboneInfo:
    best = published_weights(name, "best")
    return BackboneInfo(
        name=name,
        params=int(best.meta["num_params"]),
        gmacs=float(best.meta["_ops"]),  # torchvision counts multiply-accumulates, though it calls them FLOPS
        image_size=int(best.transforms().crop_size[0]),
        top1=float(best.meta["_metrics"]["ImageNet-1K"]["acc@1"]),
        tried={target: name in names for target, names in TRIED.items()},
    )


def _require_known(name: str) -> None:
    known = backbone_names()
    if name.startswith(_TWO_STAGES):
        raise UsageError(
            f"{name} cannot be exported: its box head runs on regions that its first half chooses, which neither "
            "torch.export nor the TFLite converter takes whole",
            fix="--task detection --backbone mobilenet_v3_large, whose head is ssdlite",
        )
    if name not in known:
        raise UsageError(f"unknown backbone {name!r}", fix=nearest(name, known))
