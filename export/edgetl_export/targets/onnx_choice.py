"""Which operators of a float ONNX graph are quantised, and which stay in float."""

from __future__ import annotations

from collections.abc import Container

import onnx

__all__ = ["MOVING", "choose", "products"]

OPERATORS = (
    "Conv",
    "Clip",
    "Relu",
    "Add",
    "Mul",
    "Sigmoid",
    "Gemm",
    "MatMul",
    "GlobalAveragePool",
    "MaxPool",
    "Resize",
)
"""ONNX Runtime fuses an operator with the pairs around it, so each of these stands between pairs."""

MOVING = ("Concat", "Reshape", "Transpose")
"""They stand between pairs where nothing but they follow a layer up to an output, which is then put together in
integers."""


def choose(
    model: onnx.ModelProto, grids: Container[str], kept: set[str], unfinished: set[str], on_pixels: set[str]
) -> tuple[list[onnx.NodeProto], dict[str, int]]:
    """The nodes to quantise, and a count by operator of those that stay in float.

    Args:
        model: The float graph, its shapes inferred.
        grids: Names of the tensors that have a grid.
        kept: Tensors whose operators stay in float.
        unfinished: The `products`, which have no grid of their own.
        on_pixels: Names of the nodes that put the uint8 image into the first layer's hands.
    """
    made = {output for node in model.graph.node for output in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    preparing = _preparing(model)
    lengths = _lengths(model)
    without_grid = unfinished | lengths
    tails, joins = _tails(model), _joins(model)
    chosen: list[onnx.NodeProto] = []
    left: dict[str, int] = {}
    given: set[str] = set()
    for node in model.graph.node:
        activations = [name for name in (*node.input, *node.output) if name in made and name not in without_grid]
        # Behind a layer that stays in float, what is given out stays so too: nothing is rounded on its way.
        read = [name for name in activations if name in node.input]
        moves = (node.name in tails or node.name in joins) and bool(read) and given.issuperset(read)
        if (
            (node.op_type in OPERATORS or moves)
            and node.name not in preparing
            and not constants.issuperset(node.input)  # the image has no part in it: engines compute it once
            and not kept.intersection(node.output)
            and all(name in grids for name in activations)
        ):
            chosen.append(node)
            given.update(node.output)
        elif not lengths.issuperset(node.output) and node.name not in on_pixels:
            left[node.op_type] = left.get(node.op_type, 0) + 1
    return chosen, left


def _tails(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that move or join what is given out, back to what makes it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [output.name for output in model.graph.output]
    found: set[str] = set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type in MOVING and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


def _joins(model: onnx.ModelProto) -> set[str]:
    """Names of what joins tensors for integer operators alone: ONNX Runtime joins levels then."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Concat" and all(reader.op_type in OPERATORS for reader in readers.get(node.output[0], []))
    }


def _lengths(model: onnx.ModelProto) -> set[str]:
    """What is computed of the number of images, and of no pixel: lengths, and what they are put together to."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Shape" or (found.intersection(node.input) and _moves_integers(model, node)):
            found.update(node.output)
    return found


def _moves_integers(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    return all(types.get(name) == onnx.TensorProto.INT64 for name in node.output)


def products(model: onnx.ModelProto) -> set[str]:
    """What matrix products with constant weights give to a sum with their bias, where the exporter wrote two nodes of
    one layer (inputs of three dimensions and more). It stays in float, so it needs no grid."""
    dimensions = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def goes_to_its_bias(product: str) -> bool:
        behind = readers.get(product, [])
        return (
            len(behind) == 1
            and behind[0].op_type == "Add"
            and any(dimensions.get(name) == 1 for name in behind[0].input)
        )

    matrices = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in dimensions]
    return {node.output[0] for node in matrices if goes_to_its_bias(node.output[0])}


def _preparing(model: onnx.ModelProto) -> set[str]:
    """The element-wise nodes between the image and the first layer: kept exact, they cost next to nothing."""
    reached = {tensor.name for tensor in model.graph.input}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Cast", "Mul", "Add", "Transpose", "Concat") and any(
            name in reached for name in node.input
        ):
            found.add(node.name)
            reached.update(node.output)
    return found
