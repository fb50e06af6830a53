"""Distillation: it helps on images it has not seen, can be cut off at any epoch, and is what the files compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgetl_export.capture import capture
from edgetl_export.device import distilling
from edgetl_export.quantize import distill as module
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.distill import DistillOptions, batches, distill, rate_left, relative_error
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.saturation import without_saturation
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.quantize.tie_free import LARGEST
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError
from edgetl_runtime.machine import cpu_features
from tests.export.conftest import logits_of_file

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.zoo import Trained

T = TypeVar("T")
OPTIONS = DistillOptions(epochs=8, rate=1e-3, scale_rate=1e-2, device="cpu")
SHORT = replace(OPTIONS, epochs=4)


class CutOff:
    """A `Track` that is interrupted, as by Ctrl-C, when `epochs` are done; ``seen`` says what it was told."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.seen: list[tuple[str, int]] = []

    def __call__(self, items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
        self.seen.append((what, total))
        for place, item in enumerate(items):
            if place == self.epochs:
                raise KeyboardInterrupt
            yield item


@pytest.fixture(scope="module")
def images(trained: Trained) -> npt.NDArray[np.uint8]:
    """(64, 32, 32, 3) to train on."""
    return np.concatenate(list(trained.samples))


@pytest.fixture(scope="module")
def poor(trained: Trained) -> Quantized:
    """The network with weights of four bits: there is something to win."""
    pixels = on_pixels(capture(trained.source))
    return quantize_static(pixels, calibrate(pixels, trained.samples), weight_levels=7)


@pytest.fixture(scope="module")
def learned(poor: Quantized, images: npt.NDArray[np.uint8]) -> Quantized:
    return distill(poor, images, OPTIONS)


def logits(quantized: Quantized, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return Simulation(quantized.captured, quantized.quantization).outputs(tensors)["logits"]


def same(one: Quantized, other: Quantized) -> bool:
    """Whether every parameter and every grid is equal to the last bit."""
    first, second = one.captured.module.state_dict(), other.captured.module.state_dict()
    return one.quantization == other.quantization and all(torch.equal(first[name], second[name]) for name in first)


def test_it_decides_more_like_the_original_on_images_it_has_not_seen(
    poor: Quantized, learned: Quantized, trained: Trained
) -> None:
    reference = trained.source.reference()(trained.tensors)
    before, after = logits(poor, trained.tensors), logits(learned, trained.tensors)
    assert sqnr_db(reference, after) > sqnr_db(reference, before) + 4
    assert (after.argmax(1) == reference.argmax(1)).mean() > (before.argmax(1) == reference.argmax(1)).mean()


def test_the_loss_falls(poor: Quantized, images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def seen(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        error = relative_error(given, wanted)
        if given.ndim == 2 and given.shape[1] == 4:
            losses.append(float(error.detach()))
        return error

    monkeypatch.setattr(module, "relative_error", seen)
    distill(poor, images, OPTIONS)
    steps = len(losses) // OPTIONS.epochs
    assert np.mean(losses[-steps:]) < 0.5 * np.mean(losses[:steps])


def test_weights_biases_and_activation_scales_all_learn(poor: Quantized, learned: Quantized) -> None:
    simulation = Simulation(poor.captured, poor.quantization)
    for name in simulation.parameters:
        before, after = (one.captured.module.get_parameter(name) for one in (poor, learned))
        assert not torch.equal(before, after), name
    for name in simulation.rounded:
        before_grid, after_grid = (one.quantization.activations[name] for one in (poor, learned))
        if name.startswith("hardtanh"):
            # It may shrink, but not outgrow the limit that the activation clips at.
            assert after_grid.scale <= before_grid.scale * (1 + 1e-6), name
        else:
            assert after_grid.scale != before_grid.scale, name
        assert 0.3 < after_grid.scale / before_grid.scale < 3, name
        assert after_grid.zero_point == before_grid.zero_point
    for name, scales in learned.quantization.weights.items():
        largest = learned.captured.module.get_parameter(name).detach().abs().flatten(1).amax(1).numpy()
        np.testing.assert_allclose(scales, largest / 7, rtol=4 / LARGEST)


@pytest.mark.gpu
def test_a_gpu_learns_the_same(poor: Quantized, images: npt.NDArray[np.uint8], trained: Trained) -> None:
    learned = distill(poor, images, replace(OPTIONS, device="cuda"))
    assert all(value.device.type == "cpu" for value in learned.captured.module.state_dict().values())
    reference = trained.source.reference()(trained.tensors)
    before, after = logits(poor, trained.tensors), logits(learned, trained.tensors)
    assert sqnr_db(reference, after) > sqnr_db(reference, before) + 4


@pytest.mark.gpu
def test_a_gpu_simulates_the_same(poor: Quantized, trained: Trained) -> None:
    there = Simulation(poor.captured, poor.quantization, device=torch.device("cuda"))
    with distilling(25):
        assert sqnr_db(logits(poor, trained.tensors), there.outputs(trained.tensors)["logits"]) > 50


@pytest.mark.gpu
def test_a_gpu_without_room_says_so(poor: Quantized, images: npt.NDArray[np.uint8]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(4e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(ExportError, match="memory is too small") as caught:
            distill(poor, images, replace(OPTIONS, device="cuda", batch_size=64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert caught.value.fix == "--device cpu"


def test_without_a_rate_nothing_changes(poor: Quantized, images: npt.NDArray[np.uint8]) -> None:
    found = distill(poor, images, replace(SHORT, epochs=1, rate=0.0, scale_rate=0.0))
    for name, value in poor.captured.module.state_dict().items():
        assert torch.equal(found.captured.module.state_dict()[name], value), name
    for name, grid in found.quantization.activations.items():
        assert grid.scale == pytest.approx(poor.quantization.activations[name].scale, rel=1e-6)


def test_what_is_said_of_it(poor: Quantized, learned: Quantized) -> None:
    assert learned.quantization.rung == "distill"
    assert learned.quantization.calibration == {**poor.quantization.calibration, "epochs": OPTIONS.epochs}
    assert poor.quantization.rung == "static"
    assert set(learned.values) == set(poor.values)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    poor: Quantized, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    whole = distill(poor, images, SHORT)
    file = tmp_path / "new" / "state.pt"
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            distill(poor, images, SHORT, resume=file, track=CutOff(epochs))
        assert file.is_file()
    rest = CutOff(99)
    resumed = distill(poor, images, SHORT, resume=file, track=rest)
    assert rest.seen == [("distill", 1)]
    assert same(resumed, whole)
    assert not same(resumed, poor)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("changed", [replace(SHORT, rate=2e-3), replace(SHORT, seed=1), replace(SHORT, epochs=3)])
def test_other_options_start_anew(
    poor: Quantized, images: npt.NDArray[np.uint8], tmp_path: Path, changed: DistillOptions
) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        distill(poor, images, SHORT, resume=file, track=CutOff(1))
    track = CutOff(99)
    found = distill(poor, images, changed, resume=file, track=track)
    assert track.seen == [("distill", changed.epochs)]
    assert same(found, distill(poor, images, changed))
    assert not file.exists()


@pytest.mark.parametrize("keep", [0, 50, 0.5, 0.99])
def test_a_damaged_state_starts_anew(
    poor: Quantized, images: npt.NDArray[np.uint8], tmp_path: Path, keep: float
) -> None:
    file = tmp_path / "state.pt"
    options = replace(SHORT, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        distill(poor, images, options, resume=file, track=CutOff(1))
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content) if isinstance(keep, float) else keep)])
    track = CutOff(99)
    distill(poor, images, options, resume=file, track=track)
    assert track.seen == [("distill", 2)]
    assert not file.exists()


def test_a_folder_that_cannot_be_written_does_not_stop_it(
    poor: Quantized, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    options = replace(SHORT, epochs=1)
    found = distill(poor, images, options, resume=blocked / "new" / "state.pt")
    assert same(found, distill(poor, images, options))


def test_the_time_that_is_spent_counts_after_an_interruption(
    poor: Quantized, images: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the time is used up before Ctrl-C: the schedule goes on from there, to its end."""
    now = [0.0]
    monkeypatch.setattr("edgetl_export.quantize.distill.time.monotonic", lambda: now[0])
    schedules: list[float] = []
    step = module._Student.step

    def stepped(self: module._Student, batch: torch.Tensor, schedule: float, *rest: object) -> None:
        schedules.append(schedule)
        now[0] += 1.0
        step(self, batch, schedule, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module._Student, "step", stepped)
    options, file = replace(SHORT, epochs=100, seconds=12.0), tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        distill(poor, images, options, resume=file, track=CutOff(2))
    assert len(schedules) == 6
    now[0] += 1e6
    distill(poor, images, options, resume=file)
    assert len(schedules) == 12
    assert schedules == sorted(schedules, reverse=True)
    assert schedules[0] == 1.0
    assert schedules[6] == pytest.approx(0.5)
    assert schedules[-1] < 0.05


@pytest.mark.parametrize("seconds", [0.001, 0.2, 60.0])
def test_the_clock_changes_nothing_while_there_is_time(
    poor: Quantized, images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A machine that needs so long for a step gives the same network to the last bit."""
    whole = distill(poor, images, replace(SHORT, epochs=2, seconds=600.0))
    ticks = count(0.0, seconds)
    monkeypatch.setattr("edgetl_export.quantize.distill.time.monotonic", lambda: next(ticks))
    assert same(distill(poor, images, replace(SHORT, epochs=2, seconds=600.0)), whole)


def test_the_rate_ends_with_the_steps_or_with_the_time() -> None:
    assert rate_left(0.0, 0.1, 0.05) == 1.0
    assert rate_left(0.5, 0.1, 0.59) == rate_left(0.5, 0.1, 0.0) == pytest.approx(0.5)
    assert rate_left(0.2, 0.1, 0.5) == pytest.approx(0.5)
    assert rate_left(1.0, 0.1, 0.0) == rate_left(0.1, 0.1, 1.0) == rate_left(0.9, 0.1, 1.3) == 0.0


def test_a_loss_that_is_not_finite_is_told(poor: Quantized, images: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ExportError, match="loss is not finite"):
        distill(poor, images, replace(SHORT, rate=1e30))


def test_batches_are_the_same_images_in_an_order_of_the_epoch(images: npt.NDArray[np.uint8]) -> None:
    def first(epoch: int, options: DistillOptions = OPTIONS) -> list[npt.NDArray[np.uint8]]:
        return [batch.numpy() for batch in batches(images, options, epoch, torch.device("cpu"))]

    assert [len(batch) for batch in first(0)] == [25, 25, 14]
    assert all(batch.shape[1:] == images.shape[1:] and batch.dtype == np.uint8 for batch in first(0))
    assert all(np.array_equal(one, other) for one, other in zip(first(3), first(3), strict=True))
    assert not np.array_equal(first(0)[0], first(1)[0])
    assert not np.array_equal(first(0)[0], first(0, replace(OPTIONS, seed=1))[0])
    # Cut and mirrored, an image is still about as bright as it was, and each comes once.
    brightness = np.sort(images.mean((1, 2, 3)))
    shown = np.sort(np.concatenate([batch.mean((1, 2, 3)) for batch in first(0)]))
    assert np.abs(brightness - shown).max() < 6


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_error_is_relative_to_each_image(scale: float) -> None:
    wanted = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    given = wanted + torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    assert float(relative_error(given * scale, wanted * scale)) == pytest.approx(1 / 25)


@pytest.mark.parametrize("target", TARGETS)
def test_the_files_are_what_was_trained(target: str, trained: Trained, eight_bits: Quantized) -> None:
    found = logits_of_file(target, open_target(target).quantize(eight_bits), trained.tensors)
    reference, simulated = trained.source.reference()(trained.tensors), logits(eight_bits, trained.tensors)
    # Another model would be as far from the simulation as both are from the original.
    assert sqnr_db(simulated, found) > sqnr_db(reference, simulated) + 6
    assert (simulated.argmax(1) == found.argmax(1)).mean() >= 0.99


@pytest.fixture(scope="module")
def eight_bits(trained: Trained, images: npt.NDArray[np.uint8]) -> Quantized:
    """Distilled from weights of eight bits, with a rate that moves them far enough to be told from the original."""
    pixels = on_pixels(capture(trained.source))
    quantized = quantize_static(pixels, calibrate(pixels, trained.samples))
    learned = distill(quantized, images, replace(SHORT, rate=3e-3, scale_rate=3e-2))
    return without_saturation(learned) if cpu_features().adds_in_16_bits else learned
