"""A Keras model, layer by layer, as a graph of torch modules in NCHW.

Not traced: a traced one is full of transposes, no batch norm is folded, and no layer is known to what quantises it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from edgetl.models.sources.keras_model import activations, layers_shaped, layers_weighted
from edgetl.models.sources.keras_model.graph import Call, GraphBuilder, cannot
from edgetl_runtime.errors import UsageError

__all__ = ["LAYERS", "OPERATIONS", "functional_of", "translate"]

Translate: TypeAlias = Callable[[GraphBuilder, Call], fx.Node]

_NOTHING = (
    *("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianNoise", "GaussianDropout", "ActivityRegularization"),
    *("StochasticDepth", "Identity", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation"),
    *("RandomContrast", "RandomBrightness", "RandomHeight", "RandomWidth", "RandomCrop", "RandomShear", "RandomHue"),
    *("RandomSaturation", "RandomSharpness", "RandomColorJitter", "RandomColorDegeneration", "RandomGrayscale"),
    *("RandomInvert", "RandomPosterization", "RandomErasing", "RandomGaussianBlur", "RandomElasticTransform"),
    *("RandomPerspective", "RandAugment", "AugMix", "MixUp", "CutMix"),
)

LAYERS: dict[str, Translate] = {
    "Conv2D": layers_weighted.convolution,
    "DepthwiseConv2D": layers_weighted.depthwise,
    "SeparableConv2D": layers_weighted.separable,
    "Conv2DTranspose": layers_weighted.transposed,
    "Dense": layers_weighted.dense,
    "BatchNormalization": layers_weighted.batch_norm,
    "LayerNormalization": layers_weighted.layer_norm,
    "GroupNormalization": layers_weighted.group_norm,
    "LayerScale": layers_weighted.layer_scale,
    "Rescaling": layers_weighted.rescaling,
    "Normalization": layers_weighted.normalization,
    "Activation": activations.activation_layer,
    "Softmax": activations.softmax_layer,
    "ReLU": activations.relu,
    "LeakyReLU": activations.leaky_relu,
    "ELU": activations.elu,
    "PReLU": activations.prelu,
    "MaxPooling2D": layers_shaped.max_pool,
    "AveragePooling2D": layers_shaped.average_pool,
    "GlobalAveragePooling2D": layers_shaped.global_pool,
    "GlobalMaxPooling2D": layers_shaped.global_pool,
    "ZeroPadding2D": layers_shaped.padded,
    "Cropping2D": layers_shaped.cropped,
    "UpSampling2D": layers_shaped.upsampling,
    "Resizing": layers_shaped.resizing,
    "Flatten": layers_shaped.flatten,
    "Reshape": layers_shaped.reshape,
    "Permute": layers_shaped.permuted,
    "Add": layers_shaped.combined(operator.add),
    "Subtract": layers_shaped.combined(operator.sub),
    "Multiply": layers_shaped.combined(operator.mul),
    "Maximum": layers_shaped.combined(torch.maximum),
    "Minimum": layers_shaped.combined(torch.minimum),
    "Average": layers_shaped.average,
    "CustomScaleLayer": layers_shaped.scaled_sum,
    "Concatenate": layers_shaped.concatenated,
    **dict.fromkeys(_NOTHING, layers_shaped.nothing),
}
"""Class of a Keras layer -> how it is translated."""

OPERATIONS: dict[str, Translate] = {
    "Add": layers_shaped.number_operation(operator.add),
    "Subtract": layers_shaped.number_operation(operator.sub),
    "Multiply": layers_shaped.number_operation(operator.mul),
    "TrueDivide": layers_shaped.number_operation(operator.truediv),
    "Divide": layers_shaped.number_operation(operator.truediv),
    "GetItem": layers_shaped.taken,
    "Stack": layers_shaped.stacked,
    "Cast": layers_shaped.nothing,
}
"""Class of an operation of `keras.ops` on the way from layer to layer -> how it is translated."""


def translate(
    model: Any, own: Mapping[str, Callable[[Any], nn.Module]], size: tuple[int, int], channels: int
) -> tuple[fx.GraphModule, GraphBuilder]:
    """`model`, a Sequential or Functional one, as a graph for images of one `size` (height, width).

    `own` are the user's translations by the name or the class of a layer.

    Raises `UsageError` for a model or a layer that cannot be translated.
    """
    functional = functional_of(model)
    if len(functional.inputs) != 1 or len(functional.outputs) != 1:
        raise UsageError(
            f"{model.name} has {len(functional.inputs)} inputs and {len(functional.outputs)} outputs",
            fix="keras.Model(the image, the output that decides): one of each",
        )
    builder = GraphBuilder()
    image = builder.graph.placeholder("image")
    builder.values[image] = torch.zeros(1, channels, *size)
    (outputs,) = _walk(builder, functional, [image], own, last=True)
    builder.graph.output(outputs)
    module = fx.GraphModule(builder.root, builder.graph, "Translated")
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module.eval().requires_grad_(requires_grad=False), builder


def functional_of(model: Any) -> Any:
    """The graph of layers. Raises `UsageError` for a model that has none: a subclass with a `call` of its own."""
    inner = getattr(model, "_functional", None)
    functional = model if inner is None else inner
    if not hasattr(functional, "_nodes_by_depth") or not getattr(functional, "inputs", None):
        raise UsageError(
            f"{model.name} ({type(model).__name__}) has no graph of layers: it is a class with a call of its own, "
            "or was never built",
            fix="keras.Input(...), the same layers called on it, keras.Model(inputs, outputs), then set_weights",
        )
    return functional


def _walk(
    builder: GraphBuilder, functional: Any, given: list[fx.Node], own: Mapping[str, Any], *, last: bool
) -> list[fx.Node]:
    """The operations of a model in their order. `last`: what it gives are the outputs of the whole."""
    known = {id(tensor): node for tensor, node in zip(functional.inputs, given, strict=True)}
    ends = _ends(functional) if last else set()
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input or type(node.operation).__name__ == "InputLayer":
                continue
            final = id(node.outputs[0]) in ends
            results = _called(builder, node, known, own, final=final)
            known.update({id(tensor): result for tensor, result in zip(node.outputs, results, strict=True)})
    return [known[id(tensor)] for tensor in functional.outputs]


def _ends(functional: Any) -> set[int]:
    """Ids of the tensors that are the outputs, and of those that become them unchanged, but for their shape."""
    ends = {id(tensor) for tensor in functional.outputs}
    for depth in sorted(functional._nodes_by_depth):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input and id(node.outputs[0]) in ends and _keeps_values(node):
                ends.update(id(tensor) for tensor in node.input_tensors)
    return ends


def _keeps_values(node: Any) -> bool:
    """Whether a layer changes no value, and does not join several rows to one: a softmax of each is none of all."""
    kind = type(node.operation).__name__
    if kind in ("Reshape", "Flatten"):
        return bool(node.outputs[0].shape[-1] == node.input_tensors[0].shape[-1])
    is_linear = kind == "Activation" and getattr(node.operation.activation, "__name__", "") == "linear"
    return is_linear or kind in ("Identity", "Dropout", "Cast")


def _called(
    builder: GraphBuilder, node: Any, known: Mapping[int, fx.Node], own: Mapping[str, Any], *, final: bool
) -> list[fx.Node]:
    layer, inputs = node.operation, [known[id(tensor)] for tensor in node.input_tensors]
    if hasattr(layer, "_functional") or hasattr(layer, "_nodes_by_depth"):
        return _walk(builder, functional_of(layer), inputs, own, last=final)
    call = Call(
        layer=layer,
        name=str(layer.name),
        inputs=inputs,
        shapes=[builder.shape_of(one) for one in inputs],
        final=final,
        arguments=_arguments(node, known),
        output_shape=tuple(node.outputs[0].shape),
    )
    result = _translation(call, own)(builder, call)
    builder.places.append((layer, call.name, result))
    return [result]


def _arguments(node: Any, known: Mapping[int, fx.Node]) -> list[Any]:
    """All arguments of a call, with our nodes in place of Keras' tensors."""
    values = [*node.arguments.args, *node.arguments.kwargs.values()]
    return [known.get(id(value), value) for value in values]


def _translation(call: Call, own: Mapping[str, Callable[[Any], nn.Module]]) -> Translate:
    name = type(call.layer).__name__
    if (users := own.get(call.name, own.get(name))) is not None:
        return _of_users(users)
    if getattr(call.layer, "data_format", None) == "channels_first":
        raise cannot(call, "channels first is not translated: build the model with channels last")
    is_operation = type(call.layer).__module__.startswith(("keras.src.ops", "keras.ops"))
    found = (OPERATIONS if is_operation else LAYERS).get(name)
    if found is not None and type(call.layer).__module__.startswith(("keras.", "tf_keras.")):
        return found
    raise cannot(call, "edgetl has no translation of it")


def _of_users(make: Callable[[Any], nn.Module]) -> Translate:
    def translate_it(builder: GraphBuilder, call: Call) -> fx.Node:
        made = make(call.layer)
        if not isinstance(made, nn.Module):
            raise UsageError(
                f"the translation of {call.name} gives {type(made).__name__}", fix="return a torch.nn.Module"
            )
        return builder.add(call.name, made.eval(), *call.inputs, layer=call.layer)

    return translate_it
