"""Sensitivity: the rounding that does harm is found, and left out in the simulation and in all three files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.sensitivity import in_float, noise_by_node
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.targets import TARGETS
from edgetl_runtime.comparison import sqnr_db
from tests.export.test_precisions import _int8_values

if TYPE_CHECKING:
    from tests.export.conftest import Int8


def images(int8: Int8) -> npt.NDArray[np.uint8]:
    return int8.trained.tensors[:32]


def coarse(quantized: Quantized, node: str, factor: float) -> Quantized:
    """One activation rounded to a grid that is far too wide."""
    grids = dict(quantized.quantization.activations)
    grids[node] = replace(grids[node], scale=factor * grids[node].scale)
    return replace(quantized, quantization=replace(quantized.quantization, activations=grids))


def lost_db(int8: Int8, quantized: Quantized) -> float:
    simulation = Simulation(quantized.captured, quantized.quantization)
    return sqnr_db(int8.reference, simulation.outputs(int8.trained.tensors)["logits"])


def test_a_planted_bad_grid_is_ranked_first(int8: Int8) -> None:
    names = Simulation(int8.quantized.captured, int8.quantized.quantization).rounded
    for name in names:
        noise = noise_by_node(coarse(int8.quantized, name, 24.0), images(int8))
        assert set(noise) == set(names)
        assert max(noise, key=lambda node: noise[node]) == name


def test_the_noise_is_what_rounding_one_activation_costs(int8: Int8) -> None:
    """Predicted to first order against measured, alone: within a factor of two where the error is small."""
    simulation = Simulation(int8.quantized.captured, int8.quantized.quantization)
    noise = noise_by_node(int8.quantized, images(int8))
    batch = torch.from_numpy(images(int8))
    ratios = []
    for name in simulation.rounded:
        scale, zero_point = simulation.grids[name]

        def once(node: torch.fx.Node, value: torch.Tensor, name: str = name) -> torch.Tensor:
            if node.name != name:
                return value
            return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 255)  # noqa: B023

        with torch.inference_mode():
            exact = simulation.run_float(batch)[0]["logits"]
            error = (simulation.run_float(batch, adjust=once)[0]["logits"] - exact).square().sum(
                1
            ) / exact.square().sum(1)
        ratios.append(noise[name] / float(error.mean()))
    assert 0.5 < float(np.exp(np.mean(np.log(ratios)))) < 2
    assert min(ratios) > 0.1
    assert max(ratios) < 10


def test_the_network_is_left_as_it_was(int8: Int8) -> None:
    before = {name: value.clone() for name, value in int8.quantized.captured.module.state_dict().items()}
    noise = noise_by_node(int8.quantized, images(int8))
    in_float(int8.quantized, noise, 0.9)
    for name, value in int8.quantized.captured.module.state_dict().items():
        assert torch.equal(before[name], value), name
    assert int8.quantized.quantization.in_float == ()
    assert noise == noise_by_node(int8.quantized, images(int8))


def test_everything_in_float_is_the_float_network(int8: Int8) -> None:
    mixed = in_float(int8.quantized, noise_by_node(int8.quantized, images(int8)), 1.0)
    simulation = Simulation(mixed.captured, mixed.quantization)
    assert simulation.rounded == []
    batch = torch.from_numpy(images(int8))
    with torch.inference_mode():
        assert torch.equal(simulation.run(batch)[0]["logits"], simulation.run_float(batch)[0]["logits"])


def test_a_larger_share_keeps_more_in_float(int8: Int8) -> None:
    noise = noise_by_node(int8.quantized, images(int8))
    kept = [set(in_float(int8.quantized, noise, share).quantization.in_float) for share in (0.0, 0.3, 0.7, 1.0)]
    assert kept[0] == set()
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert in_float(int8.quantized, noise, 0.3).quantization.rung == "mixed"


def test_what_was_in_float_before_stays_so(int8: Int8) -> None:
    noise = noise_by_node(int8.quantized, images(int8))
    first = in_float(int8.quantized, noise, 0.3)
    more = set(in_float(first, noise, 0.3).quantization.in_float)  # of what is left
    assert set(first.quantization.in_float) < more < set(in_float(first, noise, 1.0).quantization.in_float)
    assert set(first.quantization.in_float) <= set(in_float(first, {}, 0.5).quantization.in_float)


def test_the_fewest_roundings_that_do_the_harm_are_left_out(int8: Int8) -> None:
    """With one bad grid, half of the noise is that grid: what is in float is what touches it, and that is enough."""
    node = next(layer for layer in Simulation(int8.quantized.captured, int8.quantized.quantization).layers
                if layer.name == "project.0").output  # fmt: skip
    planted = coarse(int8.quantized, node, 120.0)
    mixed = in_float(planted, noise_by_node(planted, images(int8)), 0.5)
    before = Simulation(planted.captured, planted.quantization).rounded
    after = Simulation(mixed.captured, mixed.quantization).rounded
    assert set(before) - set(after) == {node}
    assert lost_db(int8, planted) < 25
    assert lost_db(int8, mixed) > lost_db(int8, planted) + 6


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_files_keep_those_layers_in_float(target: str, int8: Int8) -> None:
    mixed = in_float(int8.quantized, noise_by_node(int8.quantized, images(int8)), 0.6)
    simulation = Simulation(mixed.captured, mixed.quantization)
    float_layers = [layer for layer in simulation.layers if layer.node in mixed.quantization.in_float]
    assert 0 < len(float_layers) < len(simulation.layers)
    artifact = int8.targets[target].quantize(mixed)
    left = _int8_values(target, int8.files[target]) - _int8_values(target, artifact)
    in_float_weights = sum(mixed.captured.module.get_parameter(layer.weight).numel() for layer in float_layers)
    # Activations and constants around them go as well.
    assert left >= 0.9 * in_float_weights
    found = int8.logits(target, artifact)
    simulated = simulation.outputs(int8.trained.tensors)["logits"]
    # Rounded weights are most of what this network loses: leaving activations alone changes little.
    assert sqnr_db(int8.reference, found) > sqnr_db(int8.reference, int8.logits(target)) - 3
    assert sqnr_db(simulated, found) > sqnr_db(int8.reference, simulated) - 1
