"""Static quantisation: what the grids and scales must satisfy whatever the network."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, capture
from edgetl_export.quantize.calibrate import METHODS, calibrate
from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Grid, weight_scales
from edgetl_export.quantize.ranges import Range
from edgetl_export.quantize.static import SAFE_LEVELS, quantize_static
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError, UsageError
from tests.export.conftest import logits_of_file

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.export.conftest import Int8
    from tests.zoo import Trained

FIXED = ("sigmoid", "softmax", "max_pool2d")


@pytest.mark.parametrize("found", [Range(-1.0, 2.3), Range(0.0, 6.0), Range(-3.0, 0.0), Range(-1e-3, 500.0)])
def test_zero_is_one_of_the_values_of_a_grid(found: Range) -> None:
    grid = Grid.over(found)
    assert 0 <= grid.zero_point <= 255
    assert isinstance(grid.zero_point, int)
    values = (np.arange(256) - grid.zero_point) * grid.scale
    assert 0.0 in values
    assert (values[0], values[-1]) == (grid.low, grid.high)
    assert grid.high - grid.low == pytest.approx(found.high - found.low)
    assert grid.low == pytest.approx(found.low, abs=0.501 * grid.scale)
    assert float(np.float32(grid.scale)) == grid.scale


def test_an_activation_that_is_always_zero_has_a_grid() -> None:
    grid = Grid.over(Range(0.0, 0.0))
    assert grid.scale > 0
    assert np.isfinite(np.float32(1) / np.float32(grid.scale))


@pytest.mark.parametrize("method", METHODS)
def test_the_grids_cover_the_ranges_of_the_method(method: str, int8: Int8) -> None:
    quantization = quantize_static(int8.pixels, int8.calibration, method=method).quantization
    assert quantization.calibration["ranges"] == method
    before = {node for node, grid in quantization.activations.items() if grid == Grid(1.0, 0)}
    for name, found in int8.calibration.ranges[method].items():
        grid = quantization.activations[name]
        if name in before or name.startswith(FIXED):
            continue
        # Half a step for zero, and what `tie_free` moves a scale by.
        assert grid.low == pytest.approx(found.low, rel=0.004, abs=0.501 * grid.scale), name
        assert grid.high == pytest.approx(found.high, rel=0.004, abs=0.501 * grid.scale), name


def test_the_default_is_the_best_range(int8: Int8) -> None:
    best = quantize_static(int8.pixels, int8.calibration, method="mse").quantization
    assert int8.quantized.quantization.activations == best.activations


def test_sigmoids_have_the_grid_that_tflite_fixes(int8: Int8) -> None:
    activations = int8.quantized.quantization.activations
    found = [grid for name, grid in activations.items() if name.startswith("sigmoid")]
    assert found == [Grid(1 / 256, 0)]


def test_softmaxes_have_the_grid_that_tflite_fixes(trained) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Softmax(1), nn.Flatten(), nn.Linear(128, 4))
    captured = on_pixels(capture(dataclasses.replace(trained.source, module=network)))
    samples = CalibrationSamples(trained.calibration[:8], trained.source.preprocess)
    activations = quantize_static(captured, calibrate(captured, samples)).quantization.activations
    assert [grid for name, grid in activations.items() if name.startswith("softmax")] == [Grid(1 / 256, 0)]


def test_a_maximum_has_the_grid_of_its_input(pooling: Int8) -> None:
    activations = pooling.quantized.quantization.activations
    (node,) = [node for node in pooling.pixels.batched.graph.nodes if node.name.startswith("max_pool2d")]
    assert activations[node.name] == activations[node.args[0].name]
    assert Grid.over(pooling.calibration.ranges["mse"][node.name]) != activations[node.name]


def test_grey_levels_are_taken_as_they_are(int8: Int8, trained) -> None:
    first = layers(int8.pixels.batched.graph)[0]
    assert int8.quantized.quantization.activations[first.input] == Grid(1.0, 0)
    normalised = capture(trained.source)
    assert not normalised.takes_pixels


def test_the_largest_weight_of_every_channel_is_the_last_level(int8: Int8) -> None:
    for levels in (127, SAFE_LEVELS):
        quantized = quantize_static(int8.pixels, int8.calibration, weight_levels=levels)
        found = layers(int8.pixels.batched.graph)
        assert set(quantized.quantization.weights) == {layer.weight for layer in found}
        for layer in found:
            weights = quantized.captured.module.get_parameter(layer.weight).detach()
            scales = quantized.quantization.weights[layer.weight]
            largest = weights.abs().reshape(len(weights), -1).amax(1).numpy()
            assert (largest <= np.array(scales) * levels * (1 + 1e-5)).all()
            assert (np.round(largest / np.array(scales)) == levels).all()
    assert (weight_scales(torch.zeros(2, 3), 127) > 0).all()


class HalfDead(nn.Module):
    """One of two branches gives nothing but zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alive, self.dead = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(3, 8, 3, 2)
        self.behind, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        nn.init.constant_(self.dead.bias, -1000.0)  # type: ignore[arg-type] # it has one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.behind(torch.relu(self.dead(x))))
        logits: torch.Tensor = self.head((torch.relu(self.behind(self.alive(x))) + y).mean((2, 3)))
        return logits


@pytest.mark.parametrize("target", TARGETS)
def test_a_branch_that_is_always_zero_can_be_run(target: str, trained: Trained) -> None:
    source = dataclasses.replace(trained.source, module=HalfDead().eval())
    pixels = on_pixels(capture(source))
    quantized = quantize_static(pixels, calibrate(pixels, trained.samples))
    given = logits_of_file(target, open_target(target).quantize(quantized), trained.tensors[:20])
    assert sqnr_db(source.reference()(trained.tensors[:20]), given) > 20


@pytest.mark.parametrize("target", TARGETS)
def test_a_dead_channel_keeps_its_bias(target: str, pooling: Int8) -> None:
    """All weights zero, only the bias left: it is an int32 in steps of input scale times weight scale."""
    layer = next(layer for layer in layers(pooling.pixels.batched.graph) if layer.name == "outer")
    dead = pooling.trained.source.module.DEAD
    original = pooling.pixels.module
    assert original.get_parameter(layer.weight)[dead].abs().max() < 1e-9
    assert original.get_parameter(str(layer.bias))[dead].abs() > 1
    assert sqnr_db(pooling.reference, pooling.logits(target)) > 20


def test_reviving_a_channel_changes_next_to_nothing(pooling: Int8) -> None:
    images = torch.tensor(pooling.trained.tensors)
    with torch.inference_mode():
        expected = pooling.pixels.module(images).numpy()
        found = pooling.quantized.captured.module(images).numpy()
    assert sqnr_db(expected, found) > 70


def test_a_bias_fits_into_32_bits(pooling: Int8, int8: Int8) -> None:
    for network in (pooling, int8):
        quantization, module = network.quantized.quantization, network.quantized.captured.module
        for layer in layers(network.pixels.batched.graph):
            step = quantization.activations[layer.input].scale * np.array(quantization.weights[layer.weight])
            assert np.abs(module.get_parameter(str(layer.bias)).numpy() / step).max() <= 2**30 * 1.001, layer.name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("parameter", ["expand.0.weight", "head.bias"])
def test_weights_that_are_not_finite_are_named(parameter: str, value: float, int8: Int8) -> None:
    broken = copy.deepcopy(int8.trained.source.module)
    broken.get_parameter(parameter).data.view(-1)[0] = value
    captured = on_pixels(capture(dataclasses.replace(int8.trained.source, module=broken)))
    module = parameter.rpartition(".")[0]
    with pytest.raises(ExportError, match=rf"a weight of {module} is not finite\n  fix: check the checkpoint"):
        quantize_static(captured, int8.calibration)


def test_an_unknown_method_is_told_with_the_nearest(int8: Int8) -> None:
    with pytest.raises(UsageError, match=r"unknown way to find ranges 'minmx'\n.*did you mean 'minmax'"):
        quantize_static(int8.pixels, int8.calibration, method="minmx")


def test_a_quantization_can_be_written_and_says_what_it_is(int8: Int8) -> None:
    quantization = quantize_static(int8.pixels, int8.calibration, weight_levels=SAFE_LEVELS).quantization
    read = json.loads(json.dumps(dataclasses.asdict(quantization), allow_nan=False))
    assert {name: Grid(**grid) for name, grid in read["activations"].items()} == quantization.activations
    assert {name: tuple(scales) for name, scales in read["weights"].items()} == quantization.weights
    summary = quantization.summary()
    assert summary["method"] == "static"
    assert summary["weights"].startswith("int7 symmetric")
    assert summary["calibration"]["n"] == 64
    assert int8.quantized.quantization.summary()["weights"].startswith("int8 symmetric")


def test_the_probe_belongs_to_the_quantised_network(pooling: Int8) -> None:
    """Targets find their tensors by these values: they are of the weights that are converted."""
    with torch.inference_mode():
        logits = pooling.quantized.captured.module(torch.from_numpy(pooling.quantized.probe)).numpy()
    (output,) = [node.name for node in pooling.pixels.batched.graph.output_node().all_input_nodes]
    np.testing.assert_allclose(pooling.quantized.values[output], logits, rtol=1e-4, atol=1e-4)
