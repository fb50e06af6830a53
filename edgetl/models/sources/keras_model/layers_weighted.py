"""Keras layers with weights: convolutions, matrix products, normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from edgetl.models.sources.keras_model.activations import activated
from edgetl.models.sources.keras_model.graph import Call, GraphBuilder, cannot, same_padding, tensor_of
from edgetl.models.sources.keras_model.modules import ChannelNorm, Scale, ScaledBy

__all__ = [
    "batch_norm",
    "convolution",
    "dense",
    "depthwise",
    "group_norm",
    "layer_norm",
    "layer_scale",
    "normalization",
    "rescaling",
    "separable",
    "transposed",
]


def _bordered(builder: GraphBuilder, call: Call) -> tuple[fx.Node, tuple[int, int]]:
    """The input with the border that the layer looks at, and what of it the convolution can add itself."""
    layer = call.layer
    if layer.padding != "same":
        return call.input, (0, 0)
    (top, bottom), (left, right) = (
        same_padding(*sides)
        for sides in zip(call.sides, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    )
    if top == bottom and left == right:
        return call.input, (top, left)
    return builder.padded(call.name, call.input, (left, right, top, bottom)), (0, 0)


def _convolved(
    weight: Tensor, bias: Tensor | None, layer: Any, padding: tuple[int, int], groups: int, *, plain: bool = False
) -> nn.Conv2d:
    made = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        1 if plain else tuple(layer.strides),
        0 if plain else padding,
        1 if plain else tuple(layer.dilation_rate),
        groups,
        bias=bias is not None,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    return made


def _bias(layer: Any) -> Tensor | None:
    return tensor_of(layer.bias) if layer.use_bias else None


def convolution(builder: GraphBuilder, call: Call) -> fx.Node:
    """Conv2D."""
    layer = call.layer
    given, padding = _bordered(builder, call)
    made = _convolved(tensor_of(layer.kernel).permute(3, 2, 0, 1), _bias(layer), layer, padding, layer.groups)
    return activated(builder, call, builder.add(call.name, made, given, layer=layer))


def depthwise(builder: GraphBuilder, call: Call) -> fx.Node:
    """DepthwiseConv2D."""
    layer = call.layer
    given, padding = _bordered(builder, call)
    weight = _depthwise_weight(layer.kernel)
    made = _convolved(weight, _bias(layer), layer, padding, call.channels)
    return activated(builder, call, builder.add(call.name, made, given, layer=layer))


def _depthwise_weight(kernel: Any) -> Tensor:
    """(h, w, channels, multiplier) to (channels * multiplier, 1, h, w)."""
    weight = tensor_of(kernel)
    return weight.permute(2, 3, 0, 1).reshape(-1, 1, *weight.shape[:2])


def separable(builder: GraphBuilder, call: Call) -> fx.Node:
    """SeparableConv2D: a depthwise convolution, then one of single places."""
    layer = call.layer
    given, padding = _bordered(builder, call)
    deep = _convolved(_depthwise_weight(layer.depthwise_kernel), None, layer, padding, call.channels)
    between = builder.add(f"{call.name}_depthwise", deep, given, layer=layer)
    point = _convolved(
        tensor_of(layer.pointwise_kernel).permute(3, 2, 0, 1), _bias(layer), layer, (0, 0), 1, plain=True
    )
    return activated(builder, call, builder.add(call.name, point, between, layer=layer))


def transposed(builder: GraphBuilder, call: Call) -> fx.Node:
    """Conv2DTranspose: with "same" a side becomes its stride times as long, with "valid" nothing is cut off."""
    layer = call.layer
    kernel, stride = layer.kernel_size, layer.strides
    if any(rate != 1 for rate in layer.dilation_rate) or layer.output_padding is not None:
        raise cannot(call, "transposed convolutions with dilation or an output padding are not translated")
    weight = tensor_of(layer.kernel).permute(3, 2, 0, 1)  # (h, w, out, in) to (in, out, h, w)
    made = nn.ConvTranspose2d(weight.shape[0], weight.shape[1], kernel, stride, bias=layer.use_bias)
    with torch.no_grad():
        made.weight.copy_(weight)
        if made.bias is not None:
            made.bias.copy_(tensor_of(layer.bias))
    whole = builder.add(call.name, made, call.input, layer=layer)
    excess = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
    if layer.padding == "same" and any(k < s for k, s in zip(kernel, stride, strict=True)):
        raise cannot(call, "a kernel shorter than the stride is not translated")
    if layer.padding == "same" and any(excess):
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in excess)
        whole = builder.add(f"{call.name}_cut", nn.ZeroPad2d((-left, -right, -top, -bottom)), whole)
    return activated(builder, call, whole)


def dense(builder: GraphBuilder, call: Call) -> fx.Node:
    """Dense: of maps it is a convolution of single places."""
    layer = call.layer
    weight = tensor_of(layer.kernel).T.contiguous()
    if len(call.shape) == 4:
        made: nn.Module = _convolved(weight[:, :, None, None], _bias(layer), layer, (0, 0), 1, plain=True)
    elif len(call.shape) == 2:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.use_bias)
        with torch.no_grad():
            made.weight.copy_(weight)
            if layer.use_bias:
                made.bias.copy_(tensor_of(layer.bias))
    else:
        raise cannot(call, f"of {list(call.shape)} it is not translated")
    return activated(builder, call, builder.add(call.name, made, call.input, layer=layer))


def _axis(call: Call) -> int:
    axis = call.layer.axis
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if not isinstance(axis, int):
        raise cannot(call, f"along the axes {axis} it is not translated")
    return axis % len(call.shape)


def batch_norm(builder: GraphBuilder, call: Call) -> fx.Node:
    """BatchNormalization."""
    layer = call.layer
    if _axis(call) != len(call.shape) - 1:
        raise cannot(call, "along another axis than the channels it is not translated")
    mean, variance = tensor_of(layer.moving_mean), tensor_of(layer.moving_variance)
    weight = tensor_of(layer.gamma) if layer.scale else torch.ones_like(mean)
    bias = tensor_of(layer.beta) if layer.center else torch.zeros_like(mean)
    if len(call.shape) != 4:
        scale = (weight.double() / (variance.double() + layer.epsilon).sqrt()).float()
        shift = (bias.double() - mean.double() * scale.double()).float()
        return builder.add(call.name, Scale(scale, shift), call.input, layer=layer)
    made = nn.BatchNorm2d(len(mean), eps=layer.epsilon)
    for name, value in {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}.items():
        made.state_dict()[name].copy_(value)
    return builder.add(call.name, made, call.input, layer=layer)


def layer_norm(builder: GraphBuilder, call: Call) -> fx.Node:
    """LayerNormalization over the channels."""
    layer = call.layer
    if _axis(call) != len(call.shape) - 1 or getattr(layer, "rms_scaling", False):
        raise cannot(call, "over other axes than the channels it is not translated")
    made = nn.LayerNorm(call.channels, eps=layer.epsilon)
    with torch.no_grad():
        if layer.scale:
            made.weight.copy_(tensor_of(layer.gamma))
        if layer.center:
            made.bias.copy_(tensor_of(layer.beta))
    return builder.add(call.name, ChannelNorm(made) if len(call.shape) == 4 else made, call.input, layer=layer)


def group_norm(builder: GraphBuilder, call: Call) -> fx.Node:
    """GroupNormalization over groups of channels."""
    layer = call.layer
    if len(call.shape) != 4 or _axis(call) != 3:
        raise cannot(call, "of other than maps it is not translated")
    made = nn.GroupNorm(call.channels if layer.groups == -1 else layer.groups, call.channels, eps=layer.epsilon)
    with torch.no_grad():
        if layer.scale:
            made.weight.copy_(tensor_of(layer.gamma))
        if layer.center:
            made.bias.copy_(tensor_of(layer.beta))
    return builder.add(call.name, made, call.input, layer=layer)


def layer_scale(builder: GraphBuilder, call: Call) -> fx.Node:
    """ConvNeXt's LayerScale."""
    return builder.add(call.name, ScaledBy(tensor_of(call.layer.gamma)), call.input, layer=call.layer)


def _by_channel(call: Call, values: Any) -> Tensor:
    flat = tensor_of(values).reshape(-1)
    return flat.reshape(1, -1, 1, 1) if len(call.shape) == 4 else flat.reshape(1, -1)


def rescaling(builder: GraphBuilder, call: Call) -> fx.Node:
    """Rescaling."""
    layer = call.layer
    made = Scale(_by_channel(call, layer.scale), _by_channel(call, layer.offset))
    return builder.add(call.name, made, call.input, layer=layer)


def normalization(builder: GraphBuilder, call: Call) -> fx.Node:
    """Normalization, with the statistics that it was adapted to."""
    layer = call.layer
    mean, deviation = _by_channel(call, layer.mean), _by_channel(call, layer.variance).sqrt().clamp(min=1e-7)
    made = Scale(deviation, mean) if layer.invert else Scale(1 / deviation, -mean / deviation)
    return builder.add(call.name, made, call.input, layer=layer)
