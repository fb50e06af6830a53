from __future__ import annotations

import copy
import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, ExportOptions, Source, capture
from edgetl_export.int8 import Int8Options
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.integers import MLAS, ONEDNN, Packing
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.saturation import LayerRisk, saturation_risk, without_saturation
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import FULL_LEVELS, SAFE_LEVELS, quantize_static
from edgetl_export.quantize.sums_on_photos import sums_on_photos
from edgetl_runtime.errors import ExportError
from edgetl_runtime.machine import CpuFeatures
from edgetl_runtime.manifest import Label, Normalize, Preprocess

SMALL = Preprocess(resize=6, crop=(6, 6))


@pytest.fixture(scope="module")
def full(trained) -> Quantized:
    return _quantized(trained.source, trained.samples, FULL_LEVELS)


@pytest.fixture(scope="module")
def safe(trained) -> Quantized:
    return _quantized(trained.source, trained.samples, SAFE_LEVELS)


def test_seven_bit_weights_cannot_saturate_whatever_they_are(trained) -> None:
    source = _with_equal_weights(trained.source)
    for risk in saturation_risk(_quantized(source, trained.samples, SAFE_LEVELS)):
        assert risk.can_saturate == 0
        assert risk.channels == 0
        assert risk.worst <= 255 * 63 * 2


def test_eight_bit_neighbours_of_one_sign_do_saturate(trained) -> None:
    quantized = _quantized(_with_equal_weights(trained.source), trained.samples, FULL_LEVELS)
    risk = _by_layer(saturation_risk(quantized))["stem.0"]
    assert 1.9 * 32767 < risk.worst <= 2 * 255 * 127
    # 27 products: the last one is alone.
    assert risk.can_saturate == 13 / 14
    assert risk.channels == 1


def test_the_trained_network_is_at_risk_in_eight_bits_only(full: Quantized, safe: Quantized) -> None:
    risks = saturation_risk(full)
    assert [risk.layer for risk in risks] == [
        layer.name for layer in Simulation(full.captured, full.quantization).layers
    ]
    assert any(risk.can_saturate > 0 for risk in risks)
    assert all(risk.worst > 32767 if risk.can_saturate else risk.worst <= 32767 for risk in risks)
    assert not any(risk.can_saturate for risk in saturation_risk(safe))


def test_a_depthwise_convolution_is_exact(full: Quantized) -> None:
    for packing in (MLAS, ONEDNN):
        risk = _by_layer(saturation_risk(full, packing=packing))["expand.3"]
        assert risk.can_saturate == 0
        assert risk.worst == 255 * 127


def test_a_risk_can_be_written_as_json(full: Quantized) -> None:
    risk = saturation_risk(full)[0]
    assert json.loads(json.dumps(dataclasses.asdict(risk))) == dataclasses.asdict(risk)


def test_layers_in_float_have_no_risk(full: Quantized) -> None:
    first = Simulation(full.captured, full.quantization).layers[0]
    quantization = dataclasses.replace(full.quantization, in_float=(first.node,))
    risks = saturation_risk(dataclasses.replace(full, quantization=quantization))
    assert [risk.layer for risk in risks] == [risk.layer for risk in saturation_risk(full)][1:]


def test_a_sigmoid_reaches_only_the_levels_up_to_one(full: Quantized) -> None:
    """A layer behind a sigmoid whose grid goes to 2 meets half of the levels: 2 * 127 * 127 fits 16 bits."""
    network = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Flatten())
    _fill(network[0], 0.001)
    network[2].weight.data.fill_(1.0)
    quantized = _of_random_images(network, 4)
    assert _by_layer(saturation_risk(quantized))["2"].worst == 2 * 255 * 127
    behind = next(name for name in quantized.quantization.activations if name.startswith("sigmoid"))
    grids = dict(quantized.quantization.activations)
    grids[behind] = dataclasses.replace(grids[behind], scale=2 / 255, zero_point=0)
    halved = dataclasses.replace(quantized.quantization, activations=grids)
    assert _by_layer(saturation_risk(dataclasses.replace(quantized, quantization=halved)))["2"].worst == 2 * 128 * 127


@pytest.mark.parametrize("packing", [MLAS, ONEDNN])
@pytest.mark.parametrize("groups", [1, 3])
def test_pairs_at_risk_are_those_of_products_added_pair_by_pair(packing: Packing, groups: int) -> None:
    convolution = nn.Conv2d(3, 6 if groups == 1 else 3, 3, stride=2, padding=1, dilation=2, groups=groups)
    values = np.random.default_rng(0).uniform(-0.05, 0.05, convolution.weight.shape)
    convolution.weight.data = torch.tensor(values, dtype=torch.float32)
    quantized = _of_random_images(nn.Sequential(convolution, nn.Flatten()), convolution.out_channels * 4)
    sums = _greatest_pair_by_pair(quantized, packing)
    risk = saturation_risk(quantized, packing=packing)[0]
    assert risk.worst == max(max(of_output) for of_output in sums)
    assert risk.can_saturate == pytest.approx(np.mean([value > 32767 for of_output in sums for value in of_output]))
    assert risk.channels == pytest.approx(np.mean([max(of_output) > 32767 for of_output in sums]))
    assert (risk.can_saturate > 0) == (groups == 1)


@pytest.mark.parametrize("packing", [MLAS, ONEDNN])
def test_rescaled_channels_cannot_saturate_and_the_others_stay(full: Quantized, packing: Packing) -> None:
    rescaled = without_saturation(full, packings=(packing,))
    risks = saturation_risk(full, packing=packing)
    assert not any(risk.can_saturate for risk in saturation_risk(rescaled, packing=packing))
    before, after = full.quantization.weights, rescaled.quantization.weights
    for layer, risk in zip(Simulation(full.captured, full.quantization).layers, risks, strict=True):
        factors = np.array(after[layer.weight]) / np.array(before[layer.weight])
        assert (factors > 1).mean() == risk.channels
        assert factors.min() >= 1
        assert factors.max() < 2.1
    assert full.quantization.weights is not after


def test_scales_can_be_as_large_as_the_sums_of_photos_need(trained, full: Quantized) -> None:
    """What was seen fits 16 bits, and less is taken from the weights than for the worst that may be."""
    network = copy.deepcopy(trained.source.module)
    network.stem[0].weight.data.fill_(0.1)
    quantized = _quantized(dataclasses.replace(trained.source, module=network), trained.samples, FULL_LEVELS)
    bright = np.full((2, 32, 32, 3), 255, np.uint8)
    dark = np.full((2, 32, 32, 3), 60, np.uint8)
    name = "network.stem.0.weight"
    before = np.array(quantized.quantization.weights[name])
    for images, level in ((bright, 255), (dark, 118)):  # where a border is padded, it is with the mean of ImageNet
        sums = sums_on_photos(quantized, images)[name].numpy()
        assert sums.max() == pytest.approx(2 * level * 127, rel=0.05)
        after = without_saturation(quantized, images).quantization.weights[name]
        np.testing.assert_allclose(np.array(after) / before, np.maximum(1.15 * sums / 32767, 1.0), rtol=5e-3)
    images = np.stack(list(trained.tensors[:8]))
    seen_of_full, worst = sums_on_photos(full, images), {r.layer: r.worst for r in saturation_risk(full)}
    assert 0 < max(float(sums.max()) for sums in seen_of_full.values()) <= max(worst.values())


def test_an_input_without_a_grid_is_named(full: Quantized) -> None:
    quantization = dataclasses.replace(full.quantization, activations={})
    with pytest.raises(ExportError, match=r"input of stem\.0 has no range"):
        saturation_risk(dataclasses.replace(full, quantization=quantization))


def _quantized(source: Source, samples: CalibrationSamples, levels: int) -> Quantized:
    captured = on_pixels(capture(source))
    return quantize_static(captured, calibrate(captured, samples), weight_levels=levels)


def _of_random_images(network: nn.Module, classes: int) -> Quantized:
    """Not on pixels: the grid of a normalised image has a zero point, and padding is the convolution's."""
    labels = tuple(Label(str(index), str(index)) for index in range(classes))
    source = Source("small", network, labels, SMALL, Normalize((0.4, 0.4, 0.4), (0.3, 0.3, 0.3)), "0" * 64)
    captured = capture(source)
    images = list(np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8))
    return quantize_static(captured, calibrate(captured, CalibrationSamples(images, SMALL)))


def _fill(convolution: nn.Conv2d, largest: float) -> None:
    """Weights of one sign, near the largest."""
    values = np.random.default_rng(0).uniform(0.9, 1.0, convolution.weight.shape) * largest
    convolution.weight.data = torch.tensor(values, dtype=torch.float32)


def _with_equal_weights(source: Source) -> Source:
    """The same network with a first layer whose weights are all alike."""
    network = copy.deepcopy(source.module)
    network.stem[0].weight.data.fill_(0.1)
    return dataclasses.replace(source, module=network)


def _by_layer(risks: list[LayerRisk]) -> dict[str, LayerRisk]:
    return {risk.layer: risk for risk in risks}


def _greatest_pair_by_pair(quantized: Quantized, packing: Packing) -> list[list[float]]:
    """By output of a 3 x 3 convolution: the largest magnitude of the sum of every pair, weight by weight."""
    simulation = Simulation(quantized.captured, quantized.quantization)
    layer = simulation.layers[0]
    scales = np.array(quantized.quantization.weights[layer.weight])
    weights = np.round(simulation.parameters[layer.weight].numpy().astype(np.float64) / scales[:, None, None, None])
    depthwise = layer.groups > 1
    found = []
    for kernel in weights:
        row: list[float] = []
        for i, j in np.ndindex(3, 3):
            here = list(kernel[:, i, j])
            alone = depthwise or not packing.across_taps
            row += [*here, *[0.0] * (len(here) % 2)] if alone else here
        row += [0.0] * (len(row) % 2)
        # Levels go from 0 to 255: a sum is largest when those of the other sign are 0.
        pairs = list(zip(row[::2], row[1::2], strict=True))
        up = [255 * (max(first, 0) + max(second, 0)) for first, second in pairs]
        down = [255 * (max(-first, 0) + max(-second, 0)) for first, second in pairs]
        found.append([max(both) for both in zip(up, down, strict=True)])
    return found


@pytest.mark.parametrize(
    ("options", "safe"),
    [
        (ExportOptions(), "seen"),
        (ExportOptions(int8=Int8Options(safe=False)), False),
        (ExportOptions(("tflite",)), False),
        (ExportOptions(("openvino",), ("fp32", "w8")), False),
        (ExportOptions(("openvino",)), "seen"),
    ],
)
def test_weights_are_made_for_the_cpu_that_exports(
    options: ExportOptions, safe: bool | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["edgetl_export.export"]
    monkeypatch.setattr(module, "cpu_features", lambda: CpuFeatures("x86", ("avx2",), False))
    assert options.int8_safe == safe
    monkeypatch.setattr(module, "cpu_features", lambda: CpuFeatures("x86", ("avx2", "avx_vnni"), True))
    assert not options.int8_safe
    assert dataclasses.replace(options, int8=Int8Options(safe=True)).int8_safe is True
