"""The graph as quantisation sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from edgetl_export.capture import Captured, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.layers import before_layers, layers, module_of, rounded, softened
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.machine import cpu_features
from tests.export.conftest import logits_of_file, static_for_this_cpu

if TYPE_CHECKING:
    from tests.export.conftest import Int8
    from tests.zoo import Trained


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


class Masked(torch.nn.Module):
    """What Swin and Swin V2 do: scaled and masked products of windows, a bias that constant layers compute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.qkv = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.Linear(16, 48)
        self.places = torch.nn.Linear(2, 1)
        self.head = torch.nn.Linear(16, 4)
        self.register_buffer("table", torch.randn(16, 2))
        self.register_buffer("mask", torch.where(torch.arange(4) == 3, -100.0, 0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        windows = self.stem(x).permute(0, 2, 3, 1).reshape(n * 4, 4, 16) * 2.0
        bias = self.qkv.bias.clone()
        bias[16:32].zero_()
        q, k, v = torch.nn.functional.linear(windows, self.qkv.weight, bias).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)) * 5.0 + self.places(self.table).reshape(4, 4) + self.mask
        given = (scores.softmax(-1) @ v).reshape(n, 16, 16)
        logits: torch.Tensor = self.head(given.mean(1))
        return logits


@pytest.fixture(scope="module")
def masked(trained: Trained) -> Captured:
    return capture(replace(trained.source, module=Masked().eval()))


def test_nodes_have_one_name_however_many_images_there_are(masked: Captured) -> None:
    """Lengths that are computed from the number of images are nodes too, and count when names are given."""
    one, many = (
        [(node.name, node.target) for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
        for graph in (masked.program.module().graph, masked.batched.graph)  # type: ignore[union-attr]
    )
    assert one == many
    assert any(name.startswith("mul") for name, _ in one)


def test_what_the_image_does_not_go_through_is_no_layer(masked: Captured) -> None:
    assert [layer.name for layer in layers(masked.batched.graph)] == ["stem", "head"]


def test_what_a_softmax_weighs_is_not_rounded(masked: Captured) -> None:
    graph = masked.batched.graph
    (softmax,) = (node for node in graph.nodes if node.target is torch.ops.aten.softmax.int)
    before = softmax.all_input_nodes[0]
    assert {before.name, before.args[0].name} <= softened(graph)
    assert not {node.name for node in graph.nodes if node.target is torch.ops.aten.linear.default} & softened(graph)
    assert softmax.name in rounded(graph)
    assert not softened(graph) & set(rounded(graph))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_mask_leaves_the_others_their_levels(target: str, masked: Captured, trained: Trained) -> None:
    quantized = static_for_this_cpu(masked, calibrate(masked, trained.samples))
    given = logits_of_file(target, open_target(target).quantize(quantized), trained.tensors[:40])
    assert sqnr_db(masked.source.reference()(trained.tensors[:40]), given) > (
        15 if cpu_features().adds_in_16_bits else 32  # layers whose bias is computed, and products, are clipped there
    )
