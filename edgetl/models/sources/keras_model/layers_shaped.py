"""Keras layers without weights: pools, borders, sums, and those that do nothing in inference."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgetl.models.sources.keras_model.graph import Call, GraphBuilder, cannot, same_padding, tensor_of
from edgetl.models.sources.keras_model.modules import (
    AverageWithoutBorder,
    FlattenLast,
    GlobalPool,
    Reversed,
    Scale,
    ToMap,
)

__all__ = [
    "average",
    "average_pool",
    "combined",
    "concatenated",
    "cropped",
    "flatten",
    "global_pool",
    "max_pool",
    "nothing",
    "number_operation",
    "padded",
    "permuted",
    "reshape",
    "resizing",
    "scaled_sum",
    "stacked",
    "taken",
    "upsampling",
]

_TO_NCHW = {0: 0, 1: 2, 2: 3, 3: 1}
"""Axis of channels last -> of channels first."""


def nothing(builder: GraphBuilder, call: Call) -> fx.Node:
    """Dropout, augmentation and the like: in inference they give what they are given."""
    if type(call.layer).__name__.startswith("Random"):
        builder.notes.append(f"{call.name} ({type(call.layer).__name__}) augments in training, and is left out")
    return call.input


def max_pool(builder: GraphBuilder, call: Call) -> fx.Node:
    """MaxPooling2D."""
    kernel, stride, padding = _pooling(call)
    left, right, top, bottom = padding
    if left == right and top == bottom:
        return builder.add(call.name, nn.MaxPool2d(kernel, stride, (top, left)), call.input)
    return builder.add(
        call.name, nn.MaxPool2d(kernel, stride), builder.padded(call.name, call.input, padding, float("-inf"))
    )


def average_pool(builder: GraphBuilder, call: Call) -> fx.Node:
    """AveragePooling2D."""
    kernel, stride, padding = _pooling(call)
    if not any(padding):
        return builder.add(call.name, nn.AvgPool2d(kernel, stride), call.input)
    made = AverageWithoutBorder(kernel, stride, padding, call.sides)
    if not made.even:
        # On torch Keras repeats the edge here; TensorFlow, where such models are trained, leaves the border out.
        builder.corrected.append((call.layer, made))
    return builder.add(call.name, made, call.input)


def _pooling(call: Call) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    layer = call.layer
    kernel, stride = tuple(layer.pool_size), tuple(layer.strides)
    if layer.padding != "same":
        return kernel, stride, (0, 0, 0, 0)
    (top, bottom), (left, right) = (same_padding(*sides) for sides in zip(call.sides, kernel, stride, strict=True))
    return kernel, stride, (left, right, top, bottom)


def global_pool(builder: GraphBuilder, call: Call) -> fx.Node:
    """GlobalAveragePooling2D and GlobalMaxPooling2D."""
    kind = "mean" if "Average" in type(call.layer).__name__ else "max"
    return builder.add(call.name, GlobalPool(kind, keep=bool(call.layer.keepdims)), call.input)


def padded(builder: GraphBuilder, call: Call) -> fx.Node:
    """ZeroPadding2D."""
    (top, bottom), (left, right) = call.layer.padding
    return builder.padded(call.name, call.input, (left, right, top, bottom))


def cropped(builder: GraphBuilder, call: Call) -> fx.Node:
    """Cropping2D."""
    (top, bottom), (left, right) = call.layer.cropping
    return builder.padded(call.name, call.input, (-left, -right, -top, -bottom))


def upsampling(builder: GraphBuilder, call: Call) -> fx.Node:
    """UpSampling2D, nearest or bilinear."""
    mode = call.layer.interpolation
    if mode not in ("nearest", "bilinear"):
        raise cannot(call, f"the interpolation {mode} is not translated")
    size = tuple(float(factor) for factor in call.layer.size)
    made = nn.Upsample(scale_factor=size, mode=mode, align_corners=None if mode == "nearest" else False)
    return builder.add(call.name, made, call.input)


def resizing(builder: GraphBuilder, call: Call) -> fx.Node:
    """Resizing: at the front it becomes part of the preprocessing, which does it on the device too."""
    layer = call.layer
    if call.input.op == "placeholder" and call.sides == (layer.height, layer.width):
        builder.notes.append(f"{call.name} resizes to {layer.height} x {layer.width}: preprocessing does it")
        return call.input
    if layer.crop_to_aspect_ratio or layer.antialias or layer.interpolation not in ("nearest", "bilinear"):
        raise cannot(call, "inside a model it is translated with plain bilinear or nearest resizing alone")
    mode = "nearest-exact" if layer.interpolation == "nearest" else "bilinear"
    corners = None if layer.interpolation == "nearest" else False
    made = nn.Upsample((layer.height, layer.width), mode=mode, align_corners=corners)
    return builder.add(call.name, made, call.input)


def flatten(builder: GraphBuilder, call: Call) -> fx.Node:
    """Flatten, in the order of channels last."""
    return call.input if len(call.shape) == 2 else builder.add(call.name, FlattenLast(), call.input)


def reshape(builder: GraphBuilder, call: Call) -> fx.Node:
    """Reshape between rows and maps."""
    wanted = _sides_of(call)
    if len(call.shape) == 2 and len(wanted) == 3:
        return builder.add(call.name, ToMap(*wanted), call.input)
    if len(call.shape) == 4 and len(wanted) == 1:
        return builder.add(call.name, FlattenLast(), call.input)
    if tuple(call.shape[1:]) == wanted:
        return call.input
    if len(call.shape) == 4 and len(wanted) == 3:
        flat = builder.add(f"{call.name}_flat", FlattenLast(), call.input)
        return builder.add(call.name, ToMap(*wanted), flat)
    raise cannot(call, f"from {list(call.shape)} to {list(call.output_shape)} it is not translated")


def _sides_of(call: Call) -> tuple[int, ...]:
    """The shape that a Reshape gives, without the batch; -1 is what is left over."""
    wanted = [int(side) for side in call.layer.target_shape]
    known, total = math.prod(side for side in wanted if side != -1), math.prod(call.shape[1:])
    return tuple(total // known if side == -1 else side for side in wanted)


def permuted(builder: GraphBuilder, call: Call) -> fx.Node:
    """Permute of a map."""
    if len(call.shape) != 4:
        raise cannot(call, "of other than maps it is not translated")
    # Axes of channels last by place, in terms of the input's; both ways to channels first.
    dims = (0, *call.layer.dims)
    order = [dims[axis] for axis in (0, 3, 1, 2)]
    return builder.graph.call_method("permute", (call.input, *(_TO_NCHW[axis] for axis in order)))


def combined(function: Callable[[Any, Any], Any]) -> Callable[[GraphBuilder, Call], fx.Node]:
    """A layer that combines its inputs place by place: Add, Subtract, Multiply, Maximum, Minimum."""

    def translate(builder: GraphBuilder, call: Call) -> fx.Node:
        inputs = _same_rank(builder, call)
        result = inputs[0]
        for other in inputs[1:]:
            result = builder.graph.call_function(function, (result, other))
        return result

    return translate


def scaled_sum(builder: GraphBuilder, call: Call) -> fx.Node:
    """InceptionResNetV2's CustomScaleLayer: the first input, and so many times the second."""
    first, second = call.inputs
    times = builder.graph.call_function(operator.mul, (second, float(call.layer.scale)))
    return builder.graph.call_function(operator.add, (first, times))


def average(builder: GraphBuilder, call: Call) -> fx.Node:
    """Average."""
    total = combined(operator.add)(builder, call)
    return builder.graph.call_function(operator.mul, (total, 1.0 / len(call.inputs)))


def _same_rank(builder: GraphBuilder, call: Call) -> Sequence[fx.Node]:
    if len({len(shape) for shape in call.shapes}) > 1:
        raise cannot(call, "of inputs of several ranks it is not translated")
    return call.inputs


def concatenated(builder: GraphBuilder, call: Call) -> fx.Node:
    """Concatenate."""
    axis = call.layer.axis % len(call.shape)
    axis = _TO_NCHW[axis] if len(call.shape) == 4 else axis
    return builder.graph.call_function(torch.cat, (list(call.inputs), axis))


def number_operation(function: Callable[[Any, Any], Any]) -> Callable[[GraphBuilder, Call], fx.Node]:
    """An operation of `keras.ops` between two tensors, or a tensor and numbers: one, or one for each channel."""

    def translate(builder: GraphBuilder, call: Call) -> fx.Node:
        first, second = call.arguments[:2]
        if isinstance(first, fx.Node) and isinstance(second, fx.Node):
            return builder.graph.call_function(function, (first, second))
        number = second if isinstance(first, fx.Node) else first
        values = _numbers(call, number)
        if isinstance(first, fx.Node) and function in _AS_SCALE:
            scale, shift = _AS_SCALE[function](values)
            return builder.add(call.name, Scale(scale, shift), call.input)
        if values.numel() != 1:
            raise cannot(call, "with an array in front it is not translated")
        return builder.graph.call_function(
            function, (first, float(values)) if isinstance(first, fx.Node) else (float(values), second)
        )

    return translate


def _numbers(call: Call, number: Any) -> Tensor:
    values = tensor_of(number)
    if values.numel() == 1:
        return values.reshape(1, 1, 1, 1) if len(call.shape) == 4 else values.reshape(1, 1)
    if values.numel() != call.channels:
        raise cannot(call, f"with an array of {list(values.shape)} it is not translated")
    return values.reshape(1, -1, 1, 1) if len(call.shape) == 4 else values.reshape(1, -1)


_AS_SCALE: dict[Any, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    operator.add: lambda values: (torch.ones_like(values), values),
    operator.sub: lambda values: (torch.ones_like(values), -values),
    operator.mul: lambda values: (values, torch.zeros_like(values)),
    operator.truediv: lambda values: (1 / values, torch.zeros_like(values)),
}


def taken(builder: GraphBuilder, call: Call) -> fx.Node:
    """``x[..., ::-1]`` and ``x[..., i]``: RGB to BGR, as `preprocess_input` of the caffe kind has it."""
    key = call.arguments[1] if len(call.arguments) > 1 else None
    *before, last = key if isinstance(key, tuple | list) else (key,)
    whole = all(part is Ellipsis or (isinstance(part, slice) and part == slice(None)) for part in before)
    if len(call.shape) == 4 and whole and isinstance(last, int):
        return builder.graph.call_function(operator.getitem, (call.input, (slice(None), last)))
    if (
        len(call.shape) == 4
        and whole
        and isinstance(last, slice)
        and (last.start, last.stop, last.step) == (None, None, -1)
    ):
        builder.corrected.append((call.layer, Reversed()))  # torch has no negative steps
        return builder.graph.call_function(torch.flip, (call.input, [1]))
    raise cannot(call, "a part of a tensor is not translated, but for [..., ::-1] and [..., i]")


def stacked(builder: GraphBuilder, call: Call) -> fx.Node:
    """Channels put together again; all of a tensor in reverse are that tensor reversed."""
    if call.layer.axis not in (-1, 3) or len(call.shape) != 3:
        raise cannot(call, "along another axis than the channels it is not translated")
    sources = {one.args[0] for one in call.inputs if one.target is operator.getitem}
    if len(sources) == 1 and all(one.target is operator.getitem for one in call.inputs):
        (source,) = sources
        assert isinstance(source, fx.Node)
        order = [one.args[1][1] for one in call.inputs]  # type: ignore[index]
        channels = builder.shape_of(source)[-1]
        if order == list(range(channels))[::-1]:
            return builder.graph.call_function(torch.flip, (source, [1]))
    return builder.graph.call_function(torch.stack, (list(call.inputs), 1))
