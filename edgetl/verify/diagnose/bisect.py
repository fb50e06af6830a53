"""A conversion that fails, narrowed down to the smallest piece of the network that fails alone.

Every module of the network remembers what it was given for one image; then pieces are converted on their own, from
the whole to its children, always into the first child that fails. Where no child of a sequence fails alone, the
shortest stretch of it that fails is the piece.
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgetl_export import Captured, Source
from edgetl_export.converter_log import logged_to
from edgetl_export.targets import open_target
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Label, Normalize, Preprocess

__all__ = ["Piece", "bisect_conversion", "why_not_converted"]

_OUTPUTS = 16
"""Values of a piece's output that are kept as its logits; all of it is computed to get them."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_AS_IT_IS = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Piece:
    """The smallest part of a network that cannot be converted.

    ``path`` is its name in the network (``""`` for all of it; ``features[2:4]`` for children 2 and 3 of a sequence);
    ``inputs`` are what it is given, for one image. ``error`` is what the converter says of it, ``trace`` where;
    ``tried`` the number of conversions.
    """

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]
    target: str
    precision: str
    error: str
    trace: str
    tried: int


def bisect_conversion(source: Source, target: str, precision: str = "fp32") -> Piece | None:
    """The smallest piece of `source` that `target` cannot write at `precision`; None when it writes all of it.

    `precision` is one that needs no calibration. Takes one conversion for every module on the way down and for its
    siblings before it. Raises `MissingDependency` when the converter is not installed.
    """
    network = copy.deepcopy(source.module).cpu().float().eval()
    spec = source.preprocess
    given = _recorded(network, torch.zeros(1, spec.channels, *spec.crop))
    tries = _Tries(target, precision)
    failed = tries.fails(network, given[""])
    if failed is None:
        return None
    path, module = "", network
    while True:
        for inner, child in _parts(module, path, given):
            found = tries.fails(child, given[inner])
            if found is not None:
                path, module, failed = inner, child, found
                break
        else:
            break
    inputs = given[path]
    if isinstance(module, nn.Sequential) and len(module) > 2:
        first, last, failed = _stretch(module, lambda part, at: tries.fails(part, given[_inner(path, at)]), failed)
        if (first, last) != (0, len(module)):
            inputs = given[_inner(path, first)]
            path, module = f"{path}[{first}:{last}]", module[first:last]
    return Piece(path, module, inputs, target, precision, *failed, tried=tries.n)


def why_not_converted(
    module: nn.Module, inputs: Sequence[Any], target: str, precision: str = "fp32"
) -> tuple[str, str] | None:
    """The error of converting `module` on its own, in one line, and its trace; None when it is converted.

    `inputs` are what it is called with: tensors are made of the pixels of an image in the converted model, everything
    else stays as it is.
    """
    values = sum(value.numel() for value in inputs if isinstance(value, torch.Tensor))
    spec = Preprocess(resize=1, crop=(1, max(1, math.ceil(values / 3))))
    labels = tuple(Label(str(index), str(index)) for index in range(_kept(module, inputs)))
    about = Source("piece", module, labels, spec, _AS_IT_IS, checkpoint_sha256="")
    with tempfile.TemporaryFile() as log:
        try:
            with logged_to(log):
                open_target(target).write(Captured(about, _Fed(module, inputs).eval()), precision)
        except EdgetlError as error:
            return str(error), traceback.format_exc()
        except Exception as error:  # noqa: BLE001 - converters raise whatever they please, and that is what is looked for
            lines = _COLOUR.sub("", str(error)).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            return said, _COLOUR.sub("", traceback.format_exc())
    return None


class _Fed(nn.Module):
    """`module` behind an image: its tensors are stretches of the pixels, its first output is a row of logits."""

    def __init__(self, module: nn.Module, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.module = module
        self._inputs = [tuple(value.shape) if isinstance(value, torch.Tensor) else _Fixed(value) for value in inputs]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels, start, given = image.float().flatten(), 0, []
        for shape in self._inputs:
            if isinstance(shape, _Fixed):
                given.append(shape.value)
                continue
            n = math.prod(shape)
            given.append(pixels[start : start + n].reshape(shape))
            start += n
        return _first(self.module(*given)).flatten(1)[:, :_OUTPUTS]


@dataclass(frozen=True)
class _Fixed:
    value: Any


class _Tries:
    """Conversions, counted."""

    def __init__(self, target: str, precision: str) -> None:
        self.target, self.precision, self.n = target, precision, 0

    def fails(self, module: nn.Module, inputs: Sequence[Any]) -> tuple[str, str] | None:
        self.n += 1
        return why_not_converted(module, inputs, self.target, self.precision)


def _stretch(
    sequence: nn.Sequential, fails: Callable[[nn.Sequential, int], tuple[str, str] | None], failed: tuple[str, str]
) -> tuple[int, int, tuple[str, str]]:
    """The first and the end of the shortest stretch that fails: the shortest beginning, then its shortest end."""
    last = len(sequence)
    for end in range(2, len(sequence)):
        found = fails(sequence[:end], 0)
        if found is not None:
            last, failed = end, found
            break
    for first in range(last - 2, 0, -1):
        found = fails(sequence[first:last], first)
        if found is not None:
            return first, last, found
    return 0, last, failed


def _parts(module: nn.Module, path: str, given: Mapping[str, object]) -> Iterator[tuple[str, nn.Module]]:
    """The nearest modules inside that run: a list of modules does not."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if inner in given:
            yield inner, child
        else:
            yield from _parts(child, inner, given)


def _recorded(network: nn.Module, image: torch.Tensor) -> dict[str, tuple[Any, ...]]:
    """By the path of every module that runs, the positional inputs of its first call."""
    given: dict[str, tuple[Any, ...]] = {}
    hooks = []
    for path, module in network.named_modules():

        def remember(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], path: str = path) -> None:
            if not kwargs:
                given.setdefault(path, tuple(_copied(value) for value in inputs))

        hooks.append(module.register_forward_pre_hook(remember, with_kwargs=True))
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    return given


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _inner(path: str, index: int) -> str:
    return f"{path}.{index}" if path else str(index)


def _kept(module: nn.Module, inputs: Sequence[Any]) -> int:
    with torch.no_grad():
        output = _first(copy.deepcopy(module)(*(_copied(value) for value in inputs)))
    return min(_OUTPUTS, output.flatten(1).shape[1])


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else next(iter(output))
    return found
