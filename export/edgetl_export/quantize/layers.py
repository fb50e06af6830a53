"""The captured graph as quantisation sees it: layers with weights, and the outputs that integer engines round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

__all__ = [
    "ACTIVATIONS",
    "CLIPPING",
    "SUMS",
    "UPSAMPLING",
    "Layer",
    "before_layers",
    "exact",
    "joining",
    "layers",
    "module_of",
    "output_layers",
    "rounded",
    "scalable",
    "softened",
    "stream",
    "tails",
    "tensors",
    "with_activation",
]

_aten = torch.ops.aten
_WEIGHTED = frozenset({_aten.conv2d.default, _aten.linear.default})
ACTIVATIONS = frozenset(
    {_aten.relu.default, _aten.relu_.default, _aten.hardtanh.default, _aten.hardtanh_.default, _aten.relu6.default}
)
"""Engines fuse these into a layer or a sum before them: only what comes out behind is rounded."""

CLIPPING = frozenset({_aten.hardtanh.default, _aten.hardtanh_.default, _aten.relu6.default})
"""Activations with an upper limit."""

UPSAMPLING = frozenset({_aten.upsample_bilinear2d.vec, _aten.upsample_nearest2d.vec, _aten.upsample_bicubic2d.vec})
"""Integer kernels give these in steps of their input."""

SUMS = frozenset({_aten.add.Tensor, _aten.add_.Tensor})

_MOVING = frozenset(
    {
        _aten.permute.default,
        _aten.transpose.int,
        _aten.reshape.default,
        _aten.view.default,
        _aten.flatten.using_ints,
        _aten.squeeze.dims,
        _aten.squeeze.dim,
        _aten.unsqueeze.default,
        _aten.contiguous.default,
        _aten.clone.default,
        _aten.cat.default,
    }
)
"""What gives the values that it is given, moved or joined."""

_HOMOGENEOUS = frozenset({_aten.relu.default, _aten.relu_.default})

_ROUNDED = _WEIGHTED | ACTIVATIONS | SUMS | UPSAMPLING | {
    _aten.mul.Tensor,
    _aten.mul_.Tensor,
    _aten.cat.default,
    _aten.sigmoid.default,
    _aten.sigmoid_.default,
    _aten.silu.default,
    _aten.silu_.default,
    _aten.hardsigmoid.default,
    _aten.hardsigmoid_.default,
    _aten.hardswish.default,
    _aten.hardswish_.default,
    _aten.gelu.default,
    _aten.layer_norm.default,
    _aten.softmax.int,
    _aten.matmul.default,
    _aten.scaled_dot_product_attention.default,
    _aten.adaptive_avg_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.mean.dim,
    _aten.max_pool2d.default,
}  # fmt: skip


_EXACT = _WEIGHTED | ACTIVATIONS | SUMS | {
    _aten.cat.default,
    _aten.adaptive_avg_pool2d.default,
    _aten.mean.dim,
    _aten.max_pool2d.default,
    _aten.upsample_nearest2d.vec,
}  # fmt: skip
"""What integer engines compute exactly before they round. Others look a sigmoid up, or compute it in float."""


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights.

    ``name`` is the original module's path; ``node`` its graph node and ``output`` the node of what it gives once a
    fused activation has been applied; ``weight`` and ``bias`` are names of parameters.
    """

    name: str
    node: str
    output: str
    input: str
    weight: str
    bias: str | None
    groups: int


def layers(graph: fx.Graph) -> list[Layer]:
    """The layers with constant weights and biases that the image goes through, in running order."""
    found = []
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or reached.intersection(node.all_input_nodes):
            reached.add(node)
        weight = node.args[1] if node.op == "call_function" and node.target in _WEIGHTED else None
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        source, bias = node.args[0], node.args[2] if len(node.args) > 2 else None
        # Swin V2 computes a bias, and the bias of its attention by layers of their own: all of that is constant.
        if node not in reached or (isinstance(bias, fx.Node) and bias.op != "get_attr"):
            continue
        groups = int(node.args[6]) if node.target is _aten.conv2d.default and len(node.args) > 6 else 1
        found.append(
            Layer(
                name=module_of(node),
                node=node.name,
                output=with_activation(node).name,
                input=source.name,
                weight=str(weight.target),
                bias=str(bias.target) if isinstance(bias, fx.Node) else None,
                groups=groups,
            )
        )
    return found


def rounded(graph: fx.Graph) -> list[str]:
    """Names of the nodes whose outputs an engine rounds that runs everything it can in integers.

    The image and its normalisation are left out, and so are the logits, and what attention weighs by a softmax.
    """
    inside = _after_first_layer(graph) - softened(graph)
    last = {node.name for node in graph.output_node().all_input_nodes}
    return [
        node.name
        for node in graph.nodes
        if node.name in inside
        and node.name not in last
        and node.target in _ROUNDED
        and with_activation(node) is node
    ]  # fmt: skip


def output_layers(graph: fx.Graph) -> set[str]:
    """Names of the layers' nodes that an output consists of: what they give is moved or joined at most."""
    found: set[str] = set()
    waiting = list(graph.output_node().all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node.target in _WEIGHTED:
            found.add(node.name)
        elif node.target in _MOVING:
            waiting += node.all_input_nodes
    return found


def tails(graph: fx.Graph) -> list[tuple[list[fx.Node], list[fx.Node]]]:
    """By output the nodes that make its values, and those behind them that do nothing but move or join these.

    Outputs that nothing is moved or joined for are left out.
    """
    found: list[tuple[list[fx.Node], list[fx.Node]]] = []
    for output in graph.output_node().all_input_nodes:
        makers: list[fx.Node] = []
        moving: list[fx.Node] = []
        waiting = [output]
        while waiting:
            node = waiting.pop()
            if node in makers or node in moving:
                continue
            if node.target in _MOVING:
                moving.append(node)
                waiting += tensors(node)
            else:
                makers.append(node)
        if moving:
            found.append((makers, moving))
    return found


def tensors(node: fx.Node) -> list[fx.Node]:
    """What `node` reads, without lengths that are computed of the number of images."""
    return [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), torch.Tensor)]


def joining(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that join something upsampled with other tensors, as decoders do."""
    return [
        node
        for node in graph.nodes
        if node.target is _aten.cat.default and any(source.target in UPSAMPLING for source in tensors(node))
    ]


def exact(graph: fx.Graph) -> bool:
    """Whether all that is rounded are sums of integers, so that engines can come to the same ones."""
    names = set(rounded(graph))
    return all(node.target in _EXACT for node in graph.nodes if node.name in names)


def scalable(graph: fx.Graph) -> list[tuple[Layer, Layer]]:
    """Pairs of convolutions whose channels can be scaled in front and behind without changing the function.

    Nothing, or a ReLU, stands between them, and nobody else reads what the first one gives.
    """
    nodes = {node.name: node for node in graph.nodes}
    fronts = {layer.output: layer for layer in layers(graph)}
    found = []
    for behind in layers(graph):
        front = fronts.get(behind.input)
        if front is None or len(nodes[behind.input].users) > 1:
            continue
        plain = front.output == front.node or nodes[front.output].target in _HOMOGENEOUS
        both = all(nodes[layer.node].target is _aten.conv2d.default for layer in (front, behind))
        channels = nodes[front.output].meta["val"].shape[1]
        if plain and both and behind.groups in (1, channels):
            found.append((front, behind))
    return found


def stream(graph: fx.Graph, among: list[str]) -> list[str]:
    """Names of the residual sums, and of what the last layer reads: where a network's signal passes as a whole."""
    last = layers(graph)[-1]
    sums = {with_activation(node).name for node in graph.nodes if node.target in SUMS}
    return [name for name in among if name in sums or name == last.input]


def before_layers(graph: fx.Graph) -> list[str]:
    """Names of the nodes that no layer with weights stands before: the image and what is done to it first."""
    inside = _after_first_layer(graph)
    return [node.name for node in graph.nodes if node.op == "call_function" and node.name not in inside]


def module_of(node: fx.Node) -> str:
    """Path of the original module that a graph node came from; the node's name when it came from none."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]).removeprefix("network.") if paths else node.name


def with_activation(node: fx.Node) -> fx.Node:
    """The activation that engines fuse into `node`; itself when there is none."""
    users = list(node.users)
    fused = node.target in _WEIGHTED | SUMS and len(users) == 1 and users[0].target in ACTIVATIONS
    return users[0] if fused else node


def softened(graph: fx.Graph) -> set[str]:
    """The nodes that softmaxes alone read, moved, scaled or summed, back to the product that they come from; a layer
    with weights is none of them.

    Softmaxes are computed in float, and a step of their input is a factor of what they give: masks of -100 (Swin) and
    scales of up to 100 (Swin V2) would leave no levels for the rest.
    """
    found: set[str] = set()
    passing: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.target is _aten.softmax.int:
            passing.add(node)
        elif node.op == "call_function" and node.users and passing.issuperset(node.users):
            if node.target not in _WEIGHTED:
                found.add(node.name)
            if node.target not in _WEIGHTED | {_aten.matmul.default}:
                passing.add(node)
    return found


def _after_first_layer(graph: fx.Graph) -> set[str]:
    """The nodes that depend on a layer with weights."""
    reached: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_function" and (
            node.target in _WEIGHTED or any(source.name in reached for source in node.all_input_nodes)
        ):
            reached.add(node.name)
    return reached
