"""What is exported: a network, what it takes and gives, and the original that every file is held against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl_export.features import RESERVED, check_features, with_features
from edgetl_export.labels_file import check_label_names
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess

__all__ = ["OUTPUT_NAME", "Decoding", "Original", "Source", "by_name"]

OUTPUT_NAME = "logits"
"""What a classifier gives."""
_AT_ONCE = 8
"""Images that the original is asked about at once: the activations of more would take gigabytes."""


@dataclass(frozen=True)
class Decoding:
    """Outputs that files give besides: computed of the raw ones, which stay as they are, in float.

    ``module`` takes the raw outputs as a dict by name, and gives a tensor for each of ``names``, the batch first; its
    constants have one dimension (converters take matrices for weights, and round them).
    """

    names: tuple[str, ...]
    module: nn.Module


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        name: Of the bundle.
        module: The network: normalised float32 (N, C, H, W) to `outputs`, batch first: one as a tensor, several as a
            tuple in the order of these names, or either as a dict by name, of which the others are left out.
        labels: Of a classifier one for each logit, in their order.
        preprocess: How a photo becomes uint8 (N, H, W, C).
        normalize: Mean and deviation of each channel, of pixels as 0 to 1; the file normalises, the device does not.
        checkpoint_sha256: Identifies the weights, hex; it is recorded in the bundle.
        task: One of `edgetl_runtime.tasks.TASKS`.
        features: Names of what is given besides (see `edgetl_export.features`), beside a single output.
        decodings: What is computed of the outputs in the files, and given behind all else.
        outputs: Names of the outputs; of a classifier it is one, ``logits`` (N, classes).
        decoder: What the task decodes the outputs by, plain JSON; it is recorded, too.
        original: Where `module` is a translation of another make's model, that model: uint8 (N, H, W, C) to `outputs`
            by name, by its own code. It is what every file is held against.

    Raises:
        UsageError: Names of outputs that cannot be, or labels that no file can hold.
    """

    name: str
    module: nn.Module
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    checkpoint_sha256: str
    task: str = "classification"
    features: tuple[str, ...] = ()
    decodings: tuple[Decoding, ...] = ()
    outputs: tuple[str, ...] = (OUTPUT_NAME,)
    decoder: Mapping[str, Any] | None = field(default=None, hash=False)
    original: Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[np.float32]]] | None = None

    def __post_init__(self) -> None:
        _check_outputs((*self.outputs, *self.decoded))
        check_label_names((text for label in self.labels for text in (label.id, label.name)), f"model {self.name}")

    def network(self) -> nn.Module:
        """A copy of the network on the CPU, in float32 and evaluation mode; with features it gives a tuple.

        Raises `UsageError` for features that it does not have, `ExportError` when it cannot be traced to find them.
        """
        network = copy.deepcopy(self.module).cpu().float().eval().requires_grad_(requires_grad=False)
        if not self.features:
            return network
        check_features(self.features)
        if len(self.outputs) > 1 or self.outputs[0] in self.features:
            raise UsageError(
                f"features can be had beside one output of another name, and {self.name} has {', '.join(self.outputs)}",
                fix="leave --features out, or give them as outputs",
            )
        example = torch.zeros(2, len(self.normalize.mean), *self.preprocess.crop)
        return with_features(network, self.features, example)

    @property
    def names(self) -> tuple[str, ...]:
        """All that `network` gives, in this order: the outputs, the features."""
        return (*self.outputs, *self.features)

    @property
    def decoded(self) -> tuple[str, ...]:
        """Names of what `decodings` give, in this order behind `names`."""
        return tuple(name for decoding in self.decodings for name in decoding.names)

    def reference(self) -> Original:
        """The original: uint8 (N, H, W, C) to its outputs, for a classifier float32 logits (N, classes)."""
        return Original(self)


def _check_outputs(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names) or any(not name or name in RESERVED for name in names):
        raise UsageError(
            f"{', '.join(map(repr, names)) or 'nothing'} cannot be the names of a network's outputs",
            fix=f"name each once, and none {', '.join(RESERVED)}",
        )


class Original:
    """A source's network as it was trained, as a function of uint8 (N, H, W, C) to its outputs.

    The normalisation is computed here once more: what is exported is compared with the original, not with the
    exporter's own idea of it. Where the source has an `original` of its own, that gives the outputs, the network only
    features. ``features`` are the names of what `outputs` gives besides.
    """

    def __init__(self, source: Source) -> None:
        self.features, self._names, self._own = source.features, source.names, source.original
        self._network = source.network().to(memory_format=torch.channels_last)
        self._mean, self._std = torch.tensor(source.normalize.mean), torch.tensor(source.normalize.std)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The first output: of a classifier the logits."""
        return self.outputs(images)[self._names[0]]

    def outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Outputs and features by name, each with a row for every image."""
        if self._own is None:
            return self._of_network(images)
        own = {name: np.ascontiguousarray(value, np.float32) for name, value in self._own(images).items()}
        return {**self._of_network(images), **own} if self.features else own

    def _of_network(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        parts: list[dict[str, torch.Tensor]] = []
        with torch.inference_mode():
            for start in range(0, len(images), _AT_ONCE):
                some = torch.tensor(images[start : start + _AT_ONCE])
                normal = (some.float() / 255.0 - self._mean) / self._std
                parts.append(by_name(self._network(normal.permute(0, 3, 1, 2)), self._names))
        return {name: np.ascontiguousarray(torch.cat([part[name] for part in parts])) for name in self._names}


def by_name(given: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a network gives - a tensor, a tuple or a list in the order of `names`, or a dict - as a dict of these names.

    Raises `ExportError` when something of it is not there, or no tensor.
    """
    if isinstance(given, Mapping):
        parts = tuple(given.get(name) for name in names)
    else:
        parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    tensors = {name: part for name, part in zip(names, parts, strict=False) if isinstance(part, torch.Tensor)}
    if not len(tensors) == len(parts) == len(names):
        raise ExportError(
            f"the network gives {_described(given)}, not {', '.join(names)} as "
            f"{'a tensor' if len(names) == 1 else 'a tuple of tensors'} or a dict by name",
            fix="let its forward return these tensors, or name its outputs in the source",
        )
    return tensors


def _described(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {len(given)} ({', '.join(type(part).__name__ for part in given)})"
    return "a tensor" if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
