"""Keras' activations, as arguments and as layers of their own; and those that end a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx, nn

from edgetl.models.sources.keras_model.graph import Call, Ending, GraphBuilder, cannot, tensor_of
from edgetl.models.sources.keras_model.modules import TwoLogits
from edgetl_runtime.errors import UsageError

__all__ = ["activated", "activation_layer", "elu", "leaky_relu", "prelu", "relu", "softmax_layer"]

_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "hard_swish": nn.Hardswish,
    "hard_tanh": nn.Hardtanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "log_sigmoid": nn.LogSigmoid,
    "tanh_shrink": nn.Tanhshrink,
}
"""Keras' name of an activation -> what it is in torch."""


def _name(activation: object) -> str:
    return str(getattr(activation, "__name__", type(activation).__name__))


def activated(builder: GraphBuilder, call: Call, given: fx.Node) -> fx.Node:
    """`given` through the activation that the layer has as an argument; one that ends the classifier is taken off."""
    activation = getattr(call.layer, "activation", None)
    name = _name(activation)
    if name in _LAYERS and hasattr(activation, "call"):  # a layer as the argument: activation=LeakyReLU(0.1)
        shapes = [builder.shape_of(given)]
        return _LAYERS[name](builder, replace(call, layer=activation, inputs=[given], shapes=shapes))
    if name in ("linear", "NoneType"):
        return given
    if call.final and name in ("softmax", "sigmoid"):
        return _ended(builder, call, given, name)
    if name == "softmax":
        return _inner_softmax(builder, call, given)
    if name not in _MODULES:
        raise cannot(call, f"the activation {name} is not translated")
    return builder.add(f"{call.name}_{name}", _MODULES[name](), given)


def _ended(builder: GraphBuilder, call: Call, given: fx.Node, kind: str) -> fx.Node:
    outputs = builder.shape_of(given)[-1]
    if kind == "softmax":
        builder.ending = Ending(call.layer, kind)
        builder.notes.append(f"the softmax of {call.name} is taken off: files give logits, the runtime probabilities")
        return given
    if outputs != 1:
        raise UsageError(
            f"{call.name} has {outputs} sigmoids, a yes or no for each label: edgetl has no such task",
            fix="a softmax over the labels, or a model for each question",
        )
    builder.ending = Ending(call.layer, kind)
    builder.notes.append(f"the sigmoid of {call.name} is taken off, and its logit z becomes two, -z/2 and z/2")
    return builder.add(f"{call.name}_two", TwoLogits(), given)


def _inner_softmax(builder: GraphBuilder, call: Call, given: fx.Node) -> fx.Node:
    return builder.add(f"{call.name}_softmax", nn.Softmax(dim=1), given)


def activation_layer(builder: GraphBuilder, call: Call) -> fx.Node:
    """Activation."""
    return activated(builder, call, call.input)


def softmax_layer(builder: GraphBuilder, call: Call) -> fx.Node:
    """Softmax, over the last axis."""
    if call.layer.axis not in (-1, len(call.shape) - 1):
        raise cannot(call, "along another axis than the last it is not translated")
    if call.final:
        return _ended(builder, call, call.input, "softmax")
    return _inner_softmax(builder, call, call.input)


def relu(builder: GraphBuilder, call: Call) -> fx.Node:
    """ReLU, with a slope below and a limit above."""
    layer = call.layer
    slope, limit, threshold = float(layer.negative_slope), layer.max_value, float(layer.threshold)
    if threshold or (slope and limit is not None):
        raise cannot(call, "with a threshold, or a slope and a limit, it is not translated")
    if slope:
        made: nn.Module = nn.LeakyReLU(slope)
    elif limit is None:
        made = nn.ReLU()
    else:
        made = nn.ReLU6() if float(limit) == 6 else nn.Hardtanh(0.0, float(limit))
    return builder.add(call.name, made, call.input)


def leaky_relu(builder: GraphBuilder, call: Call) -> fx.Node:
    """LeakyReLU."""
    return builder.add(call.name, nn.LeakyReLU(float(call.layer.negative_slope)), call.input)


def elu(builder: GraphBuilder, call: Call) -> fx.Node:
    """ELU."""
    return builder.add(call.name, nn.ELU(float(call.layer.alpha)), call.input)


def prelu(builder: GraphBuilder, call: Call) -> fx.Node:
    """PReLU with a slope for each channel."""
    slopes = tensor_of(call.layer.alpha)
    flat = slopes.reshape(-1, slopes.shape[-1])
    if not torch.equal(flat, flat[:1].expand_as(flat)):
        raise cannot(call, "with a slope for every place it is not translated")
    made = nn.PReLU(slopes.shape[-1])
    with torch.no_grad():
        made.weight.copy_(flat[0])
    return builder.add(call.name, made, call.input)


_LAYERS: dict[str, Callable[[GraphBuilder, Call], fx.Node]] = {
    "ReLU": relu,
    "LeakyReLU": leaky_relu,
    "ELU": elu,
    "Softmax": softmax_layer,
}
"""Layers without weights that stand as the activation of another."""
