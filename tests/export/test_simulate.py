"""The simulation: every value on its grid, nothing rounded that stays in float, as exact as the engines' files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgetl_export.quantize.quantization import Quantization
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.targets import TARGETS
from edgetl_runtime.comparison import sqnr_db

if TYPE_CHECKING:
    from tests.export.conftest import Int8


def simulated(int8: Int8, quantization: Quantization | None = None) -> Simulation:
    return Simulation(int8.quantized.captured, quantization or int8.quantized.quantization)


def rounded_weight(int8: Int8, name: str) -> torch.Tensor:
    """The parameter on the grid of the quantisation, in float64."""
    scales = torch.tensor(int8.quantized.quantization.weights[name], dtype=torch.float64)
    weights = int8.quantized.captured.module.get_parameter(name).detach().double()
    scales = scales.reshape(-1, *[1] * (weights.ndim - 1))
    return torch.round(weights / scales).clamp(-127, 127) * scales


def test_every_rounded_activation_is_on_its_grid(int8: Int8) -> None:
    simulation = simulated(int8)
    with torch.inference_mode():
        _, kept = simulation.run(torch.tensor(int8.trained.tensors[:16]), keep=simulation.rounded)
    assert set(kept) == set(simulation.rounded)
    assert len(kept) >= 12
    for name, values in kept.items():
        grid = int8.quantized.quantization.activations[name]
        levels = values.double() / grid.scale + grid.zero_point
        assert (levels - levels.round()).abs().max() < 1e-3
        assert levels.min() > -0.5
        assert levels.max() < 255.5


def test_layers_multiply_with_the_weights_of_the_quantization(int8: Int8) -> None:
    simulation = simulated(int8)
    by_name = {layer.name: layer for layer in simulation.layers}
    head, squeeze = by_name["head"], by_name["squeeze.1"]
    keep = [head.input, squeeze.input, squeeze.node]
    with torch.inference_mode():
        outputs, kept = simulation.run(torch.tensor(int8.trained.tensors[:16]), keep=keep)
    module = int8.quantized.captured.module
    expected = F.linear(
        kept[head.input].double(), rounded_weight(int8, head.weight), module.get_parameter("network.head.bias").double()
    )
    assert sqnr_db(expected.numpy(), outputs["logits"].double().numpy()) > 90
    grid = int8.quantized.quantization.activations[squeeze.node]
    output = F.conv2d(
        kept[squeeze.input].double(),
        rounded_weight(int8, squeeze.weight),
        module.get_parameter("network.squeeze.1.bias").double(),
    )
    difference = (output.clamp(grid.low, grid.high) - kept[squeeze.node].double()).abs()
    assert difference.max() <= 0.501 * grid.scale


def test_everything_in_float_is_the_float_network(int8: Int8) -> None:
    nodes = tuple(node.name for node in int8.pixels.batched.graph.nodes)
    simulation = simulated(int8, dataclasses.replace(int8.quantized.quantization, in_float=nodes))
    images = torch.tensor(int8.trained.tensors)
    with torch.inference_mode():
        logits, float_logits = (run(images)[0]["logits"] for run in (simulation.run, simulation.run_float))
    assert simulation.rounded == []
    assert torch.equal(logits, float_logits)
    assert sqnr_db(int8.reference, logits.numpy()) > 52


def test_a_layer_in_float_keeps_its_weights_and_gets_rounded_inputs(int8: Int8) -> None:
    layer = next(layer for layer in simulated(int8).layers if layer.name == "head")
    simulation = simulated(int8, dataclasses.replace(int8.quantized.quantization, in_float=(layer.node,)))
    with torch.inference_mode():
        outputs, kept = simulation.run(torch.tensor(int8.trained.tensors[:16]), keep=[layer.input])
        module = int8.quantized.captured.module
        exact = F.linear(kept[layer.input], module.get_parameter(layer.weight), module.get_parameter(str(layer.bias)))
    torch.testing.assert_close(outputs["logits"], exact)
    assert simulation.rounded == simulated(int8).rounded


def test_the_simulation_loses_what_the_files_lose(int8: Int8) -> None:
    with torch.inference_mode():
        logits = simulated(int8).run(torch.tensor(int8.trained.tensors))[0]["logits"].numpy()
    reference = int8.reference
    lost = sqnr_db(reference, logits)
    assert 15 < lost < 45
    for target in TARGETS:
        found = int8.logits(target)
        assert sqnr_db(reference, found) == pytest.approx(lost, abs=1.5), target
        # Two roundings of their own would be 3 dB below what each loses; engines round inside a SiLU too.
        assert sqnr_db(logits, found) > lost - 1.5, target


def test_a_coarser_grid_is_seen(int8: Int8) -> None:
    coarse = {
        name: dataclasses.replace(grid, scale=8 * grid.scale)
        for name, grid in int8.quantized.quantization.activations.items()
    }
    images = torch.tensor(int8.trained.tensors)
    with torch.inference_mode():
        fine = simulated(int8).run(images)[0]["logits"].numpy()
        found = simulated(int8, dataclasses.replace(int8.quantized.quantization, activations=coarse)).run(images)[0]
    assert sqnr_db(int8.reference, found["logits"].numpy()) < sqnr_db(int8.reference, fine) - 6


def test_gradients_pass_through_the_rounding(int8: Int8) -> None:
    simulation = simulated(int8)
    images = torch.tensor(int8.trained.tensors[:8])
    for parameter in simulation.parameters.values():
        parameter.requires_grad_()
    outputs, _ = simulation.run(images)
    outputs["logits"].square().mean().backward()
    gradients = [parameter.grad for parameter in simulation.parameters.values()]
    assert len(gradients) == 16
    assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients)
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients if gradient is not None)
