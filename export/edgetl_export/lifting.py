"""Networks that symbolic tracing cannot follow: the graph of `torch.export`, with its layers as modules again.

`torch.export` runs the network and follows any Python, but what it gives is a graph of functions: batch norms are not
folded, and no layer is known by its name. Here convolutions, matrix products and batch norms become modules again,
under the names that their weights have in the network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

__all__ = ["NOT_TRACED", "as_modules", "folded", "graph_of_layers", "reparametrized"]

NOT_TRACED = (TraceError, TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
"""What symbolic tracing raises for a network that it cannot follow: an error of its own, or whatever the network does
when it meets stand-ins in place of numbers."""

_INLINED = (F.conv2d, F.batch_norm, torch.conv2d, torch.batch_norm)
_MOST_IMAGES = 4096
_REPARAMETRIZING = ("fuse", "reparameterize", "switch_to_deploy")
"""What blocks of several branches call the method that makes them one convolution."""


def folded(network: nn.Module, example: Tensor, *, single: bool = True) -> nn.Module:
    """`network` in evaluation mode with batch norms folded into the convolutions before them.

    Where symbolic tracing cannot follow, by way of `torch.export` with `example`; where that cannot either, the network
    as it is: the converters fold what they find. What `torch.export` follows for one image alone is only taken where
    files are for one (`single`): of more it would give what it gives for one.
    """
    network = reparametrized(network)
    try:
        traced: nn.Module = fuse(network)
        if not _has_inlined_layers(traced):
            return traced
    except NOT_TRACED:
        traced = network
    try:
        return fuse(as_modules(_exported(network, example, single=single)), no_trace=True)
    except Exception:  # noqa: BLE001 # what torch.export raises for a network is up to the network
        return traced


def graph_of_layers(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """The graph that `folded` folds. Raises what `torch.export` does for a network that it cannot follow either."""
    try:
        traced = fx.symbolic_trace(network)
        if not _has_inlined_layers(traced):
            return traced
    except NOT_TRACED:
        pass
    return as_modules(_exported(network, example))


def _has_inlined_layers(traced: nn.Module) -> bool:
    """Whether symbolic tracing went into layers that are subclasses of torch's, as timm's are: functions are left of
    them, which nothing folds."""
    return isinstance(traced, fx.GraphModule) and any(node.target in _INLINED for node in traced.graph.nodes)


def reparametrized(network: nn.Module) -> nn.Module:
    """`network` with the branches of its blocks made one (MobileOne, RepVGG, RepViT, FastViT), in place.

    A block says that it can by a method of its own without arguments; a network without such blocks stays as it is.
    """
    for name, child in list(network.named_children()):
        method = next((found for word in _REPARAMETRIZING if (found := _without_arguments(child, word))), None)
        if method is None or isinstance(child, fx.GraphModule):
            reparametrized(child)
            continue
        single = method()
        if isinstance(single, nn.Module):
            setattr(network, name, single)
    return network


def _without_arguments(module: nn.Module, name: str) -> Callable[[], object] | None:
    """The method of this name, if there is one that needs no argument."""
    method = getattr(module, name, None)
    if not callable(method) or isinstance(method, nn.Module):
        return None
    needed = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
    return method if all(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in needed) else None


def _exported(network: nn.Module, example: Tensor, *, single: bool = True) -> ExportedProgram:
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("n", min=1, max=_MOST_IMAGES)},))
    except Exception:  # as above; a network for one number of images goes on with that
        if not single:
            raise
        return torch.export.export(network, (example[:1],))


def as_modules(program: ExportedProgram) -> fx.GraphModule:
    """The graph of `program`, whose convolutions, matrix products and batch norms are modules with their own weights.

    What computes its weights first stays a function.
    """
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    made: dict[tuple[str, ...], str] = {}
    layers: dict[str, nn.Module] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            module.graph.erase_node(node)
            continue
        lift = _LIFTED.get(node.target) if node.op == "call_function" else None
        layer = None if lift is None else lift(module, node)
        if layer is None:
            continue
        weights = tuple(str(used.target) for used in node.all_input_nodes if used.op == "get_attr")
        key = (*weights, repr(layer))
        if key not in made:
            made[key] = _free_name(weights[0].rpartition(".")[0] or node.name, layers)
            layers[made[key]] = layer
        with module.graph.inserting_before(node):
            call = module.graph.call_module(made[key], (node.args[0],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    _plain_signature(module.graph)
    # A new one: what `torch.export` gives refuses to be put into evaluation mode, in which it is.
    values = {str(node.target): _value(module, node) for node in module.graph.nodes if node.op == "get_attr"}
    return fx.GraphModule({**values, **layers}, module.graph)


def _plain_signature(graph: fx.Graph) -> None:
    """One tensor in and one out as they are, where they stood in lists of one."""
    output, codegen = graph.output_node(), graph._codegen
    given = output.args[0]
    spec = getattr(getattr(codegen, "pytree_info", None), "out_spec", None)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if spec is None or not spec.is_leaf() or len(inputs) != 1:
        return
    if isinstance(given, tuple | list):
        output.args = (given[0],)
    graph.set_codegen(fx.graph.CodeGen())


def _free_name(path: str, layers: Mapping[str, nn.Module]) -> str:
    """`path`, or one like it when a layer has that name: the same weights, used in another way."""
    name, number = path, 1
    while name in layers:
        name, number = f"{path}_{number}", number + 1
    return name


def _value(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The weight or the buffer that `node` reads; None where it is computed."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, Tensor) else None


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call by name, where they are given."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _convolution(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    found = _arguments(node, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    weight, bias = _value(module, found["weight"]), _value(module, found.get("bias"))
    if weight is None or (found.get("bias") is not None and bias is None):
        return None
    groups = found.get("groups", 1)
    padding = found.get("padding", 0)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        _pair(found.get("stride", 1)),
        padding if isinstance(padding, str) else _pair(padding),
        _pair(found.get("dilation", 1)),
        groups,
        bias=bias is not None,
    )
    return _holding(layer, weight=weight, bias=bias)


def _linear(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    found = _arguments(node, "input", "weight", "bias")
    weight, bias = _value(module, found["weight"]), _value(module, found.get("bias"))
    if weight is None or (found.get("bias") is not None and bias is None):
        return None
    return _holding(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight=weight, bias=bias)


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    found = _arguments(node, *names)
    mean, variance = (_value(module, found.get(name)) for name in names[3:5])
    value = found["input"].meta.get("val")
    if mean is None or variance is None or found.get("training") or value is None or value.ndim != 4:
        return None
    weight, bias = _value(module, found.get("weight")), _value(module, found.get("bias"))
    layer = nn.BatchNorm2d(len(mean), eps=found.get("eps", 1e-5))
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return _holding(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _holding(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """`layer` with these values for its parameters and buffers."""
    own = layer.state_dict()
    for name, value in tensors.items():
        if value is not None:
            own[name].copy_(value)
    return layer.eval().requires_grad_(requires_grad=False)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1]))


_LIFTED: dict[Any, Callable[[fx.GraphModule, fx.Node], nn.Module | None]] = {
    torch.ops.aten.conv2d.default: _convolution,
    torch.ops.aten.conv2d.padding: _convolution,
    torch.ops.aten.linear.default: _linear,
    torch.ops.aten.batch_norm.default: _batch_norm,
}
