"""A network of your own: ``module.py:function``, or a module in memory.

A file of code is run when a person names it, and only then: never because a checkpoint or a bundle names it.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetl.models.image_size import ImageSize, height_and_width
from edgetl.models.sources import MEMORY, is_allowed
from edgetl.models.weight_files import State
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = [
    "build",
    "can_be_built",
    "check_weights",
    "converted",
    "find_head",
    "load_own_weights",
    "loaded_file",
    "made",
    "number_of_outputs",
    "preset",
    "remember",
]

_USUAL_SIZE = 224
_NAMES = ("num_classes", "classes", "num_labels")
"""What functions call the number of labels."""


@dataclass(frozen=True, eq=False)
class _Remembered:
    module: nn.Module
    head: str | None


_IN_MEMORY: dict[str, _Remembered] = {}


def remember(module: nn.Module, *, head: str | None = None) -> str:
    """A name for a module in memory, good for this process; `head` is the path of its last layer, by default found."""
    for name, known in _IN_MEMORY.items():
        if known.module is module and known.head == head:
            return name
    name = f"{MEMORY}{type(module).__name__}-{len(_IN_MEMORY) + 1}"
    _IN_MEMORY[name] = _Remembered(module, head)
    return name


def can_be_built(name: str) -> bool:
    """Whether it is in memory, or a person named its code in this process."""
    return name in _IN_MEMORY or is_allowed(name)


def made(name: str, *, num_classes: int | None, image_size: ImageSize | None, channels: int | None) -> nn.Module:
    """What the function gives (or a copy of the module in memory), with the arguments that it has a name for.

    Raises `UsageError` for a function that is not there, that cannot be called so, or gives no module, and
    `CheckpointError` for code that nobody named.
    """
    if name.startswith(MEMORY):
        if name not in _IN_MEMORY:
            raise CheckpointError(
                f"{name} was a module in the memory of the program that trained it",
                fix="name its code: --backbone module.py:function, a function that builds it",
            )
        return copy.deepcopy(_IN_MEMORY[name].module)
    if not is_allowed(name):
        raise CheckpointError(
            f"the network is built by {name}, and code is only run when you name it yourself",
            fix=f"--backbone {name}",
        )
    function = _function(name)
    given: dict[str, Any] = {"image_size": image_size, "channels": channels, "in_chans": channels}
    given |= dict.fromkeys(_NAMES, num_classes)
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set()
    arguments = {key: value for key, value in given.items() if key in parameters and value is not None}
    try:
        model = function(**arguments)
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called with {', '.join(arguments) or 'no arguments'}: {error}",
            fix="a function without arguments, or with num_classes, image_size and channels",
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} gives {type(model).__name__}, no torch.nn.Module", fix="return the network")
    return model


def loaded_file(path: Path) -> Any:
    """The module that a file of Python code is. Raises `UsageError`."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", fix="check the path")
    known = f"edgetl_own_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    sys.path.insert(0, str(path.resolve().parent))  # what stands beside it may be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        del sys.modules[known]
        raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}", fix="mend it") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _function(name: str) -> Callable[..., object]:
    file, _, called = name.rpartition(":")
    function = getattr(loaded_file(Path(file)), called, None)
    if not callable(function):
        raise UsageError(f"{file} has no function {called!r}", fix="module.py:function, with a function that is there")
    found: Callable[..., object] = function
    return found


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
        path = find_head(model, example, _named_head(name), where=name)
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


def _named_head(name: str) -> str | None:
    if name.startswith(MEMORY):
        return _IN_MEMORY[name].head
    return getattr(loaded_file(Path(name.rpartition(":")[0])), "HEAD", None)


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
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"{where} cannot take {list(example.shape)}: {type(error).__name__}: {str(error).strip()[:200]}",
            fix="its own size: --image-size N or HxW, and --channels",
        ) from error
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        what = f"{list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(f"{where} gives {what}, no logits (N, labels)", fix="return one row of logits for each image")
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
