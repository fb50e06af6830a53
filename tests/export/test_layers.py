"""The graph as quantisation sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgetl_export.quantize.layers import before_layers, layers, module_of, rounded

if TYPE_CHECKING:
    from tests.export.conftest import Int8


def test_layers_are_named_after_modules_in_running_order(int8: Int8) -> None:
    found = layers(int8.pixels.batched.graph)
    names = ["stem.0", "expand.0", "expand.3", "squeeze.1", "squeeze.3", "project.0", "last.0", "head"]
    assert [layer.name for layer in found] == names
    assert [layer.groups for layer in found] == [1, 1, 32, 1, 1, 1, 1, 1]
    for layer in found:
        assert layer.weight == f"network.{layer.name}.weight"
        assert layer.bias == f"network.{layer.name}.bias"
        assert int8.pixels.module.get_parameter(layer.weight).ndim == (2 if layer.name == "head" else 4)


def test_a_layers_output_is_behind_the_activation_that_engines_fuse(int8: Int8) -> None:
    graph = int8.pixels.batched.graph
    nodes = {node.name: node for node in graph.nodes}
    fused = {layer.name for layer in layers(graph) if layer.output != layer.node}
    # SiLU and sigmoid are operators of their own.
    assert fused == {"stem.0", "expand.3", "last.0"}
    for layer in layers(graph):
        assert layer.output == layer.node or nodes[layer.output].all_input_nodes == [nodes[layer.node]]
        assert nodes[layer.node].all_input_nodes[0] is nodes[layer.input]


def test_an_activation_that_shares_its_input_is_not_fused() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return torch.relu(y) * y

    graph = torch.export.export(Both(), (torch.zeros(2, 4),)).module().graph
    (layer,) = layers(graph)
    assert layer.output == layer.node
    assert layer.node in rounded(graph)


def test_the_image_the_logits_and_what_is_fused_are_not_rounded(int8: Int8) -> None:
    graph = int8.pixels.batched.graph
    found = rounded(graph)
    by_name = {layer.name: layer for layer in layers(graph)}
    for name, layer in by_name.items():
        assert (layer.output in found) == (name != "head")
        assert (layer.node in found) == (layer.output == layer.node and name != "head")
    kinds = {node.name: str(node.target) for node in graph.nodes}
    assert {"aten.add.Tensor", "aten.sigmoid.default", "aten.mul.Tensor"} <= {kinds[name] for name in found}
    assert not set(found) & set(before_layers(graph))


def test_what_stands_before_the_first_layer(int8: Int8, trained) -> None:
    from edgetl_export import capture

    graph = int8.pixels.batched.graph
    kinds = [str(node.target) for node in graph.nodes if node.name in before_layers(graph)]
    assert {"aten.cat.default", "aten.permute.default"} <= set(kinds)
    assert not any(kind.startswith(("aten.conv2d", "aten.hardtanh")) for kind in kinds)
    normalised = capture(trained.source).batched.graph
    kinds = [str(node.target) for node in normalised.nodes if node.name in before_layers(normalised)]
    assert {"aten.mul.Tensor", "aten.add.Tensor"} <= set(kinds)


def test_nodes_know_their_modules(int8: Int8) -> None:
    found = {module_of(node) for node in int8.pixels.batched.graph.nodes if node.op == "call_function"}
    assert {"stem.2", "expand.2", "squeeze.4", "head"} <= found
