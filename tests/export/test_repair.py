"""Repair: biases bring the means of all channels back, and evening channels out changes no function."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export.capture import Captured, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.layers import scalable
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.repair import correct_biases, equalize
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.source import Source
from edgetl_runtime.comparison import sqnr_db
from tests.zoo import LABELS, NORMALIZE, SPEC, Pooling, fitted

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.export.conftest import Int8
    from tests.zoo import Trained


@pytest.fixture(scope="module")
def quantized(trained: Trained) -> Quantized:
    pixels = on_pixels(capture(trained.source))
    return quantize_static(pixels, calibrate(pixels, trained.samples))


@pytest.fixture(scope="module")
def images(trained: Trained) -> npt.NDArray[np.uint8]:
    """(48, 32, 32, 3) to fit on."""
    return np.concatenate(list(trained.samples))[:48]


@pytest.fixture(scope="module")
def poor(trained: Trained, quantized: Quantized) -> Quantized:
    """The same with weights of four bits, whose rounding errors add up to wrong means."""
    return quantize_static(quantized.captured, calibrate(quantized.captured, trained.samples), weight_levels=7)


@pytest.fixture(scope="module")
def resnet() -> Trained:
    """A small ResNet: with a ReLU between two convolutions."""
    torch.manual_seed(7)
    return fitted(Pooling(len(LABELS)))


def repaired(quantized: Quantized, images: npt.NDArray[np.uint8]) -> Quantized:
    return replace(quantized, captured=quantized.captured.with_parameters(correct_biases(quantized, images)))


def worst_mean_error(quantized: Quantized, wanted: Captured, images: npt.NDArray[np.uint8]) -> float:
    """Largest error of a channel's mean, relative to the tensor's root mean square, over all layers with a bias."""
    simulation = Simulation(quantized.captured, quantized.quantization)
    names = [layer.node for layer in simulation.layers if layer.bias is not None and layer.output == layer.node]
    original = Simulation(wanted, quantized.quantization)
    batch = torch.from_numpy(images)
    with torch.inference_mode():
        exact, found = original.run_float(batch, keep=names)[1], simulation.run(batch, keep=names)[1]
    errors = []
    for name in names:
        axes = (0, 2, 3) if exact[name].ndim == 4 else (0,)
        difference = (found[name] - exact[name]).mean(axes).abs().max()
        errors.append(float(difference / exact[name].square().mean().sqrt()))
    return max(errors)


def test_channel_means_come_back(quantized: Quantized, poor: Quantized, images: npt.NDArray[np.uint8]) -> None:
    before = worst_mean_error(poor, quantized.captured, images)
    after = worst_mean_error(repaired(poor, images), quantized.captured, images)
    assert before > 0.01
    # What is left is the rounding of the outputs, whose mean nothing corrects.
    assert after < 0.25 * before


def test_that_helps_on_images_it_has_not_seen(poor: Quantized, images: npt.NDArray[np.uint8], trained: Trained) -> None:
    reference = trained.source.reference()(trained.tensors)
    lost = [
        sqnr_db(reference, Simulation(one.captured, one.quantization).outputs(trained.tensors)["logits"])
        for one in (poor, repaired(poor, images))
    ]
    assert lost[1] > lost[0] + 2


@pytest.mark.parametrize("kind", ["hard", "attentive", "channelwise"])
def test_without_an_error_no_bias_changes(kind: str, request: pytest.FixtureRequest) -> None:
    network: Int8 = request.getfixturevalue(kind)
    everything = tuple(node.name for node in network.quantized.captured.batched.graph.nodes)
    quantization = replace(network.quantized.quantization, in_float=everything)
    found = correct_biases(replace(network.quantized, quantization=quantization), network.trained.tensors[:8])
    assert found
    for name, value in found.items():
        torch.testing.assert_close(
            value, network.quantized.captured.module.get_parameter(name).detach(), atol=1e-5, rtol=0
        )


def test_a_planted_error_of_a_bias_is_undone(quantized: Quantized, images: npt.NDArray[np.uint8]) -> None:
    """What a layer with wrong weights adds on average is what its new bias takes away."""
    by_name = {layer.name: layer for layer in Simulation(quantized.captured, quantized.quantization).layers}
    head, bias = by_name["head"], str(by_name["head"].bias)
    everything = tuple(node.name for node in quantized.captured.batched.graph.nodes)
    exact = replace(quantized, quantization=replace(quantized.quantization, in_float=everything))
    unchanged = correct_biases(exact, images)
    for name, value in unchanged.items():
        torch.testing.assert_close(value, quantized.captured.module.get_parameter(name).detach(), atol=1e-5, rtol=0)
    wrong = {name: scales for name, scales in quantized.quantization.weights.items() if name != head.weight}
    wrong[head.weight] = tuple(4.0 * scale for scale in quantized.quantization.weights[head.weight])
    others = tuple(name for name in everything if name != head.node)
    planted = replace(quantized, quantization=replace(quantized.quantization, weights=wrong, in_float=others))
    found = correct_biases(planted, images)
    simulation = Simulation(planted.captured, planted.quantization)
    with torch.inference_mode():
        _, kept = simulation.run(torch.from_numpy(images), keep=[head.input])
        weight = planted.captured.module.get_parameter(head.weight)
        missing = (kept[head.input] @ (weight - simulation.parameter(head.weight)).T).mean(0)
    assert missing.abs().max() > 0.005
    change = found[bias] - planted.captured.module.get_parameter(bias).detach()
    torch.testing.assert_close(change, missing, atol=2e-4, rtol=1e-2)


def scaled(resnet: Trained, factor: float) -> Captured:
    """The small ResNet with channel 1 of its inner convolution `factor` times as large, undone behind the ReLU."""
    network = copy.deepcopy(resnet.source.module)
    inner, outer = network.get_submodule("inner.1"), network.get_submodule("outer")
    inner.get_parameter("weight").data[1] *= factor
    inner.get_parameter("bias").data[1] *= factor
    outer.get_parameter("weight").data[:, 1] /= factor
    return on_pixels(capture(replace(resnet.source, module=network)))


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_evening_channels_out_changes_no_function(resnet: Trained, factor: float) -> None:
    captured = scaled(resnet, factor)
    evened, pairs = equalize(captured, resnet.tensors[:16])
    assert pairs == 1
    with torch.inference_mode():
        batch = torch.from_numpy(resnet.tensors[:64])
        before, after = captured.batched(batch), evened.batched(batch)
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    names = [name for name, value in captured.module.named_parameters()
             if not torch.equal(value, evened.module.get_parameter(name))]  # fmt: skip
    assert sorted(names) == ["network.inner.0.bias", "network.inner.0.weight", "network.outer.weight"]


def test_channels_become_more_even_and_int8_better(resnet: Trained) -> None:
    captured = scaled(resnet, 30.0)
    evened, _ = equalize(captured, resnet.tensors[:16])
    lost = []
    for one in (captured, evened):
        quantized = quantize_static(one, calibrate(one, resnet.samples))
        simulation = Simulation(quantized.captured, quantized.quantization)
        lost.append(sqnr_db(resnet.source.reference()(resnet.tensors), simulation.outputs(resnet.tensors)["logits"]))
    assert lost[1] > lost[0] + 1
    ((front, _),) = scalable(captured.batched.graph)
    norms = [one.module.get_parameter(front.weight).detach().flatten(1).norm(dim=1) for one in (captured, evened)]
    assert norms[1].max() / norms[1].median() < 0.6 * norms[0].max() / norms[0].median()


class Pair(nn.Module):
    """Two convolutions with an activation between them, and a head."""

    def __init__(self, activation: nn.Module, *, depthwise: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.front, self.between = nn.Conv2d(3, 8, 3, padding=1), activation
        self.behind = nn.Conv2d(8, 8, 3, padding=1, groups=8 if depthwise else 1)
        self.last, self.shared = nn.Conv2d(8, len(LABELS), 1), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.front(x))
        y = torch.sigmoid(self.behind(x))
        y = y + x if self.shared else y
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.last(y), 1), 1)


def captured_pair(network: nn.Module) -> Captured:
    source = Source("pair", network.eval(), LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
    return on_pixels(capture(source))


@pytest.mark.parametrize("network", [Pair(nn.ReLU()), Pair(nn.ReLU(), depthwise=True), Pair(nn.Identity())])
def test_layers_with_nothing_or_a_relu_between_them_are_evened_out(network: nn.Module, trained: Trained) -> None:
    torch.manual_seed(0)
    captured = captured_pair(network)
    evened, pairs = equalize(captured, trained.tensors[:8])
    assert pairs == 1
    batch = torch.from_numpy(trained.tensors[8:24])
    with torch.inference_mode():
        before, after = captured.batched(batch), evened.batched(batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert not torch.equal(
        captured.module.get_parameter("network.front.weight"), evened.module.get_parameter("network.front.weight")
    )


@pytest.mark.parametrize(
    "network", [Pair(nn.ReLU6()), Pair(nn.SiLU()), Pair(nn.Hardtanh(0.0, 6.0)), Pair(nn.ReLU(), shared=True)]
)
def test_what_is_not_homogeneous_or_read_twice_is_left_alone(network: nn.Module, trained: Trained) -> None:
    captured = captured_pair(network)
    evened, pairs = equalize(captured, trained.tensors[:8])
    assert pairs == 0
    for name, value in captured.module.named_parameters():
        assert torch.equal(value, evened.module.get_parameter(name)), name
