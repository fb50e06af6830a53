"""The user's own Keras model as the original: their pixels, their layers; and the translation held against it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from edgetl.models.sources.keras_model.graph import Ending, GraphBuilder
from edgetl.models.sources.keras_model.loading import keras_on_torch
from edgetl.models.sources.keras_model.pixels import Convention
from edgetl_runtime.errors import UsageError

__all__ = ["LEAST_DB", "KerasOriginal", "as_tensorflow", "compare", "decibels"]

LEAST_DB = 90.0
"""A translation that is further from Keras than this is wrong. Rounding alone leaves 95 (BGR of 255) to 170."""
_SILENT_DB = 200.0
_LIKE_ROUNDING_DB = 10.0
"""A translation this much further from Keras than from itself in double precision is no more than rounded."""


class KerasOriginal:
    """uint8 (N, H, W, C) to ``logits``, by the user's model: its last softmax or sigmoid alone is taken off."""

    def __init__(self, model: Any, convention: Convention, builder: GraphBuilder) -> None:
        self.model, self.convention, self._ending = model, convention, builder.ending
        if builder.ending is not None:
            _take_off(builder.ending)
        as_tensorflow(builder)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        """The logits (N, classes) float32."""
        outputs = self.run(self.convention.apply(images))
        if self._ending is not None and self._ending.kind == "sigmoid":
            outputs = np.concatenate((-outputs / 2, outputs / 2), 1)
        return {"logits": outputs}

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the model gives for what it is given."""
        with torch.no_grad():
            outputs = self.model(torch.from_numpy(pixels), training=False)
        # A functional model gives its one output as it was built: alone, in a list, or in a dict.
        while isinstance(outputs, Mapping | Sequence):
            (outputs,) = outputs.values() if isinstance(outputs, Mapping) else outputs
        return _array(outputs)


def as_tensorflow(builder: GraphBuilder) -> None:
    """Let layers that Keras computes otherwise on torch give what they give on TensorFlow."""
    for layer, module in builder.corrected:

        def call(inputs: torch.Tensor, *_: Any, _module: nn.Module = module, **__: Any) -> torch.Tensor:
            given: torch.Tensor = _module(inputs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return given

        object.__setattr__(layer, "call", call)


def _take_off(ending: Ending) -> None:
    """Let the layer give what it gave its softmax or sigmoid. It is a copy of the user's."""
    keras, layer = keras_on_torch(), ending.layer
    if hasattr(layer, "activation"):
        layer.activation = keras.activations.linear
    else:
        object.__setattr__(layer, "call", lambda inputs, *_, **__: inputs)


def _array(value: Any) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = value.detach().cpu().float().numpy()
    return found


def decibels(wanted: npt.NDArray[np.float32], given: npt.NDArray[np.float32]) -> float:
    """How near `given` is: power of the signal over power of the difference."""
    signal, noise = np.square(wanted.astype(np.float64)).mean(), np.square(wanted.astype(np.float64) - given).mean()
    return _SILENT_DB if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))


def compare(
    original: KerasOriginal, module: fx.GraphModule, builder: GraphBuilder, images: npt.NDArray[np.uint8]
) -> float:
    """How near the translation is to Keras on `images`, in decibels.

    Raises `UsageError`, naming the first layer that differs, when that is less than `LEAST_DB`, and than what a network
    in which errors grow from layer to layer loses by rounding alone.
    """
    pixels = original.convention.apply(images)
    wanted = original(images)["logits"]
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        outputs = module(given).numpy()
        found = decibels(wanted, outputs)
        if found >= LEAST_DB:
            return found
        exact = copy.deepcopy(module).double()(given.double()).numpy()
    if found >= decibels(exact, outputs) - _LIKE_ROUNDING_DB:
        return found
    layer = _first_to_differ(original.model, module, builder, pixels)
    raise UsageError(
        f"the translation is not what Keras computes ({found:.0f} dB): "
        + ("no single layer differs" if layer is None else f"layer {layer} is the first that differs"),
        fix="--custom module.py, with a translation of that layer; and tell us: it is a bug of edgetl",
    )


def _first_to_differ(
    model: Any, module: fx.GraphModule, builder: GraphBuilder, pixels: npt.NDArray[np.float32]
) -> str | None:
    """The first layer whose output differs when both are run, by Keras' order."""
    ours = _Recorder(module)
    with torch.no_grad():
        ours.run(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    theirs = _outputs_of([layer for layer, _, _ in builder.places], model, pixels)
    for (layer, name, node), wanted in zip(builder.places, theirs, strict=True):
        value = ours.values.get(node.name)
        if value is None or wanted is None:
            continue
        given = value.permute(0, 2, 3, 1) if value.ndim == 4 else value
        if given.shape != wanted.shape or decibels(wanted, given.numpy()) < LEAST_DB:
            return f"{name} ({type(layer).__name__})"
    return None


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.values[n.name] = result
        return result


def _outputs_of(
    layers: Sequence[Any], model: Any, pixels: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32] | None]:
    """What each call of `layers` gave, in their order, when `model` was run. Operations are not watched."""
    calls: dict[int, list[npt.NDArray[np.float32]]] = {}
    replaced: dict[int, Any] = {}
    for layer in {id(one): one for one in layers}.values():
        if not hasattr(layer, "call"):
            continue

        def recording(*given: Any, _call: Any = layer.call, _key: int = id(layer), **words: Any) -> Any:
            result = _call(*given, **words)
            if isinstance(result, torch.Tensor):
                calls.setdefault(_key, []).append(_array(result))
            return result

        replaced[id(layer)] = vars(layer).get("call")
        object.__setattr__(layer, "call", recording)
    try:
        with torch.no_grad():
            model(torch.from_numpy(pixels), training=False)
    finally:
        for layer in {id(one): one for one in layers if id(one) in replaced}.values():
            object.__delattr__(layer, "call")
            if replaced[id(layer)] is not None:
                object.__setattr__(layer, "call", replaced[id(layer)])
    found: list[npt.NDArray[np.float32] | None] = []
    for layer in layers:
        given = calls.get(id(layer), [])
        found.append(given.pop(0) if given else None)
    return found
