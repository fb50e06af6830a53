from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, Source, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.integers import FBGEMM, MLAS, ONEDNN, Packing
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Grid, Quantized
from edgetl_export.quantize.saturation import LayerRisk, emulate_saturating, saturation_risk, without_saturation
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import FULL_LEVELS, SAFE_LEVELS, quantize_static
from edgetl_runtime.errors import DataError, ExportError
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
    for risk in saturation_risk(_quantized(source, trained.samples, SAFE_LEVELS), packing=FBGEMM):
        assert risk.can_saturate == 0
        assert risk.channels == 0
        assert risk.worst <= 255 * 63 * 2


def test_eight_bit_neighbours_of_one_sign_do_saturate(trained) -> None:
    quantized = _quantized(_with_equal_weights(trained.source), trained.samples, FULL_LEVELS)
    risk = _by_layer(saturation_risk(quantized, trained.tensors[:8]))["stem.0"]
    assert 1.9 * 32767 < risk.worst <= 2 * 255 * 127
    # 27 products: the last one is alone.
    assert risk.can_saturate == 13 / 14
    assert risk.channels == 1
    assert risk.does_saturate is not None
    assert risk.does_saturate > 0.1


def test_the_trained_network_is_at_risk_in_eight_bits_only(trained, full: Quantized, safe: Quantized) -> None:
    risks = saturation_risk(full, trained.tensors[:8])
    assert [risk.layer for risk in risks] == [
        layer.name for layer in Simulation(full.captured, full.quantization).layers
    ]
    assert any(risk.can_saturate > 0 for risk in risks)
    assert all(risk.worst > 32767 if risk.can_saturate else risk.worst <= 32767 for risk in risks)
    assert all(risk.does_saturate == 0 for risk in risks if risk.can_saturate == 0)
    assert not any(risk.can_saturate or risk.does_saturate for risk in saturation_risk(safe, trained.tensors[:8]))


def test_a_depthwise_convolution_is_exact_but_for_libraries_that_pack_it(full: Quantized) -> None:
    packed = _by_layer(saturation_risk(full, packing=FBGEMM))["expand.3"]
    assert packed.can_saturate > 0
    for packing in (MLAS, ONEDNN):
        risk = _by_layer(saturation_risk(full, packing=packing))["expand.3"]
        assert risk.can_saturate == 0
        assert risk.worst == 255 * 127


def test_a_risk_can_be_written_as_json(full: Quantized) -> None:
    risk = saturation_risk(full)[0]
    assert json.loads(json.dumps(dataclasses.asdict(risk))) == dataclasses.asdict(risk)
    assert risk.does_saturate is None


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


@pytest.mark.parametrize("packing", [MLAS, ONEDNN, FBGEMM])
@pytest.mark.parametrize("groups", [1, 3])
def test_sums_are_those_of_products_added_pair_by_pair(packing: Packing, groups: int) -> None:
    convolution = nn.Conv2d(3, 6 if groups == 1 else 3, 3, stride=2, padding=1, dilation=2, groups=groups)
    _fill(convolution, 0.05)
    quantized = _of_random_images(nn.Sequential(convolution, nn.Flatten()), convolution.out_channels * 4)
    # Only the image is rounded: the logits stay as they are.
    grids = {name: Grid(0.0137, 97) for name in quantized.quantization.activations if not name.startswith("conv2d")}
    quantized = dataclasses.replace(
        quantized, quantization=dataclasses.replace(quantized.quantization, activations=grids)
    )
    images = np.random.default_rng(1).integers(128, 256, (5, 6, 6, 3), dtype=np.uint8)
    found = emulate_saturating(quantized, images, packing=packing)["logits"]
    expected, lossless = _pair_by_pair(quantized, images, packing), _pair_by_pair(quantized, images, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (np.abs(expected - lossless).max() > 0.1) == (groups == 1 or packing.depthwise)
    share = (np.abs(expected - lossless) > 1e-6).mean()
    assert saturation_risk(quantized, images, packing=packing)[0].does_saturate == pytest.approx(share)


def test_without_saturation_the_emulation_is_the_simulation(trained, safe: Quantized) -> None:
    images = trained.tensors[:100]
    with torch.inference_mode():
        simulated = Simulation(safe.captured, safe.quantization).run(torch.from_numpy(images))[0]["logits"].numpy()
    emulated = emulate_saturating(safe, images)["logits"]
    assert (emulated.argmax(1) == simulated.argmax(1)).mean() >= 0.98
    assert _decibels(simulated, emulated) > 35


@pytest.mark.slow
def test_saturation_costs_decibels_that_smaller_weights_save(trained) -> None:
    source = _with_equal_weights(trained.source)
    eight, seven = (_quantized(source, trained.samples, levels) for levels in (FULL_LEVELS, SAFE_LEVELS))
    reference = source.reference()(trained.tensors)
    saturated = _decibels(reference, emulate_saturating(eight, trained.tensors)["logits"])
    assert saturated < 12
    assert _decibels(reference, emulate_saturating(seven, trained.tensors)["logits"]) > saturated + 6
    assert (
        _decibels(reference, emulate_saturating(without_saturation(eight), trained.tensors)["logits"]) > saturated + 6
    )


@pytest.mark.parametrize("packing", [MLAS, ONEDNN, FBGEMM])
def test_rescaled_channels_cannot_saturate_and_the_others_stay(full: Quantized, packing: Packing) -> None:
    rescaled = without_saturation(full, packing=packing)
    risks = saturation_risk(full, packing=packing)
    assert not any(risk.can_saturate for risk in saturation_risk(rescaled, packing=packing))
    before, after = full.quantization.weights, rescaled.quantization.weights
    for layer, risk in zip(Simulation(full.captured, full.quantization).layers, risks, strict=True):
        factors = np.array(after[layer.weight]) / np.array(before[layer.weight])
        assert (factors > 1).mean() == risk.channels
        assert factors.min() >= 1
        assert factors.max() < 2.1
    assert full.quantization.weights is not after


def test_images_of_another_shape_or_type_are_refused(full: Quantized) -> None:
    for images in (
        np.zeros((2, 5, 5, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.uint8),
    ):
        with pytest.raises(DataError, match="takes uint8 images"):
            emulate_saturating(full, images)


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


def _decibels(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - other).sum()))


def _pair_by_pair(
    quantized: Quantized, images: npt.NDArray[np.uint8], packing: Packing | None
) -> npt.NDArray[np.float64]:
    """Logits of one convolution (3 x 3, stride 2, padding 1, dilation 2) over a 6 x 6 image, product by product."""
    simulation = Simulation(quantized.captured, quantized.quantization)
    layer = simulation.layers[0]
    grid = next(iter(quantized.quantization.activations.values()))
    scales = np.array(quantized.quantization.weights[layer.weight])
    weights = np.round(simulation.parameters[layer.weight].numpy().astype(np.float64) / scales[:, None, None, None])
    bias = simulation.parameters[str(layer.bias)].numpy().astype(np.float64)
    normalised = (images / 255.0 - 0.4) / 0.3
    levels = np.clip(np.round(normalised / grid.scale) + grid.zero_point, 0, 255)
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=grid.zero_point)
    depthwise = layer.groups > 1
    result = np.zeros((len(images), len(weights), 2, 2))
    for image, output, row, column in np.ndindex(*result.shape):
        products = []
        for i, j in np.ndindex(3, 3):
            pixel = padded[image, 2 * row + 2 * i, 2 * column + 2 * j]
            here = [pixel[output] * weights[output, 0, i, j]] if depthwise else list(pixel * weights[output, :, i, j])
            products += here if packing is None or packing.across_taps else [*here, *[0.0] * (len(here) % 2)]
        products += [0.0] * (len(products) % 2)
        sums = [first + second for first, second in zip(products[::2], products[1::2], strict=True)]
        if packing is not None and (packing.depthwise or not depthwise):
            sums = [min(max(value, -32768), 32767) for value in sums]
        unit = grid.scale * scales[output]
        zero = grid.zero_point * weights[output].sum()
        result[image, output, row, column] = (sum(sums) - zero + round(bias[output] / unit)) * unit
    return result.reshape(len(images), -1)
