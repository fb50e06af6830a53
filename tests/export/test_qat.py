"""Training of the quantised network on labels, and the way of what it learned back into the original module."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import Source, capture
from edgetl_export import int8 as int8_module
from edgetl_export.int8 import Int8Options, Quantizer
from edgetl_export.quantize.distill import DistillOptions, batches, distill
from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.unfold import unfolded
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.manifest import Normalize
from tests.zoo import LABELS, SIZE, SPEC, Attentive, Bottlenecks, Hard, Pooling

if TYPE_CHECKING:
    from tests.export.conftest import Int8
    from tests.zoo import Trained

GREY_LEVELS = Normalize((124 / 255, 116 / 255, 104 / 255), (0.229, 0.224, 0.225))
"""A mean colour that a border of grey levels can have exactly."""


class Branching(nn.Module):
    """What `torch.fx` cannot trace: its batch norm is not folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normal = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normal(self.convolution(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)) if x.shape[1] == 8 and bool(x.ndim == 4) else x)
        return logits


def source_of(network: nn.Module) -> Source:
    """`network` with batch norms that do something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_var, 0.5)):
                assert value is not None
                value.data.uniform_(low, low + 1)
    return Source("network", network.eval(), LABELS, SPEC, GREY_LEVELS, checkpoint_sha256="0" * 64)


def images(n: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [True, False], ids=["on pixels", "normalised"])
@pytest.mark.parametrize(
    "network",
    [Bottlenecks(4), Pooling(4), Hard(4), Attentive(4), Branching()],
    ids=lambda network: type(network).__name__,
)
def test_learned_parameters_go_back_into_the_original(network: nn.Module, *, pixels: bool) -> None:
    source = source_of(network)
    captured = on_pixels(capture(source)) if pixels else capture(source)
    names = [name for layer in layers(captured.batched.graph) for name in (layer.weight, layer.bias) if name]
    learned = captured.with_parameters(
        {
            name: value * torch.empty_like(value).uniform_(0.9, 1.1)
            for name, value in ((name, captured.module.get_parameter(name).detach()) for name in names)
        }
    )
    back = unfolded(learned)
    assert back.state_dict().keys() == network.state_dict().keys()
    with torch.inference_mode():
        wanted = learned.module(torch.tensor(images(1))).numpy()
        before = captured.module(torch.tensor(images(1))).numpy()
    assert sqnr_db(wanted, dataclasses.replace(source, module=back).reference()(images(1))) > 60
    assert sqnr_db(wanted, before) < 50, "nothing was learned"


def test_a_bias_without_a_place_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ExportError, match="first convolution, has neither a bias nor a batch norm"):
        unfolded(on_pixels(capture(source_of(network))))


def cross_entropy(quantized: Quantized, tensors: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    logits = Simulation(quantized.captured, quantized.quantization).outputs(tensors)["logits"]
    return float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


@pytest.mark.slow
def test_labels_are_learned_with_their_own_images(int8: Int8) -> None:
    """The next label for every image: nothing else would teach the network that."""
    tensors, kinds = int8.trained.tensors[:100], (int8.trained.kinds[:100] + 1) % len(LABELS)
    options = DistillOptions(epochs=6, labels=20.0, rate=1e-2, scale_rate=1e-3)
    with_labels = distill(int8.quantized, tensors, options, labels=kinds)
    without = distill(int8.quantized, tensors, options)
    assert (with_labels.quantization.rung, without.quantization.rung) == ("qat", "distill")
    assert cross_entropy(with_labels, tensors, kinds) < 0.5 * cross_entropy(without, tensors, kinds)


@pytest.mark.parametrize("labels", [[0] * 15, [0] * 17, [4] + [0] * 15, [-1] + [0] * 15])
def test_labels_that_do_not_fit_are_refused(int8: Int8, labels: list[int]) -> None:
    with pytest.raises(UsageError, match="do not fit 16 images and 4 logits"):
        distill(int8.quantized, int8.trained.tensors[:16], labels=np.array(labels))


def test_qat_without_labels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"(?s)qat trains on labels.*--quantize distill needs no labels"):
        Int8Options("qat")


@pytest.mark.parametrize("way", ["qat", "distill"])
def test_only_qat_trains_on_the_labels_of_its_photos(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    given: dict[str, Any] = {}

    def learn(quantized: Quantized, tensors: npt.NDArray[np.uint8], _: DistillOptions, **options: Any) -> Quantized:
        given.update(options, tensors=tensors)
        return quantized

    monkeypatch.setattr(int8_module, "distill", learn)
    labels = tuple(place % 4 for place in range(len(trained.samples)))
    quantizer = Quantizer(
        trained.source, on_pixels(capture(trained.source)), trained.samples, Int8Options(way, labels=labels)
    )
    quantizer.quantized()
    assert len(given["tensors"]) == len(labels)
    assert given["labels"] is None if way == "distill" else given["labels"].tolist() == list(labels)


def test_photos_that_mean_something_else_in_a_mirror_are_not_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None] * 7, (64, SIZE, SIZE, 3)).copy()

    def rising(options: DistillOptions) -> set[bool]:
        return {
            bool(batch[..., -1, :].sum() > batch[..., 0, :].sum())
            for batch in batches(ramp, options, 0, torch.device("cpu"))
        }

    assert rising(DistillOptions(batch_size=4)) == {True, False}
    assert rising(DistillOptions(batch_size=4, mirror=False)) == {True}
