"""Distillation: the quantised network is trained to give what the float one gives, on the same photos.

Weights, biases and activation scales learn together in `Simulation`, whose rounding lets gradients through; scales by
the gradient of Esser et al., "Learned step size quantization", ICLR 2020. The loss is the squared error of the outputs
and of the residual stream, each relative to its own energy, image by image: no photo counts more than another, and no
labels are needed. Where there are some, the cross-entropy with them is added: quantisation-aware training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from edgetl_export.capture import Captured
from edgetl_export.device import device_named, distilling
from edgetl_export.memory import memory_reused
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.calibrate import node_values
from edgetl_export.quantize.layers import CLIPPING, stream
from edgetl_export.quantize.quantization import Grid, Quantization, Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.tie_free import tie_free
from edgetl_runtime.cache import make_cache_folder
from edgetl_runtime.errors import ExportError, OutputError, UsageError
from edgetl_runtime.files import open_regular
from edgetl_runtime.writing import replacing

__all__ = ["DistillOptions", "batches", "distill", "outputs_error", "rate_left", "relative_error"]


@dataclass(frozen=True)
class DistillOptions:
    """How to distil.

    ``rate`` is the learning rate relative to the root mean square (at most 1) of each parameter, ``scale_rate`` that
    of the activation scales' logarithms; ``features`` and ``labels`` weigh the errors of the residual stream and of
    the labels, where there are any, against that of the outputs. ``seconds`` is the most it may take, the schedule
    shrinks to fit. ``mirror`` shows half of the batches mirrored: not for digits, which mean something else then.
    ``device`` is as `edgetl_export.device.device_named` takes it.
    """

    epochs: int = 16
    batch_size: int = 25
    rate: float = 1e-4
    scale_rate: float = 3e-4
    features: float = 1.0
    labels: float = 0.1
    mirror: bool = True
    seconds: float = 480.0
    seed: int = 0
    device: str = "auto"


@memory_reused()
def distill(
    quantized: Quantized,
    images: npt.NDArray[np.uint8],
    options: DistillOptions | None = None,
    *,
    labels: npt.NDArray[np.int64] | None = None,
    resume: Path | None = None,
    track: Track = silent,
) -> Quantized:
    """`quantized` after training on `images` (n, H, W, C) uint8 against its own float network.

    With `labels` (n,), places in the row of logits, the true labels count too, and the rung is ``qat``.
    With `resume` the state is kept in that file after every epoch, and a run that was cut off goes on from it.
    Raises `ExportError` when the loss is not finite or a GPU's memory too small, `UsageError` when labels do not fit
    images and logits or there is no such device. On a GPU two runs may differ in the last bits.
    """
    options = options or DistillOptions()
    truth = None if labels is None else _checked(labels, len(images), quantized.captured)
    device = device_named(options.device)
    with distilling(options.batch_size):
        student = _Student(quantized, options, device)
        state = _State(student, options, resume)
        steps_per_epoch = math.ceil(len(images) / options.batch_size)
        total = options.epochs * steps_per_epoch
        start, done = time.monotonic(), state.epoch * steps_per_epoch
        for epoch in track(range(state.epoch, options.epochs), what="distill", total=options.epochs - state.epoch):
            parts = _parts(len(images), options, _generator(options, epoch))
            for batch, chosen in zip(batches(images, options, epoch, device), parts, strict=True):
                spent = (state.seconds + time.monotonic() - start) / options.seconds
                schedule = rate_left(done / total, 1 / total, spent)
                if schedule == 0.0:
                    break
                student.step(batch, schedule, None if truth is None else truth[chosen].to(device))
                done += 1
            state.save(epoch + 1, state.seconds + time.monotonic() - start)
        state.drop()
        return student.finished("distill" if truth is None else "qat")


class _Student:
    """The simulated network with what it learns, and the float network that teaches it."""

    def __init__(self, quantized: Quantized, options: DistillOptions, device: torch.device) -> None:
        self.quantized, self.options = quantized, options
        self.simulation = Simulation(quantized.captured, quantized.quantization, device=device)
        self.probed = stream(self.simulation.module.graph, self.simulation.rounded)
        self.parameters = self.simulation.parameters
        groups: list[dict[str, Any]] = []
        for parameter in self.parameters.values():
            parameter.requires_grad_()
            size = min(max(float(parameter.detach().square().mean().sqrt()), 1e-6), 1.0)
            groups.append({"params": [parameter], "base": options.rate * size})
        self.logarithms = {name: torch.nn.Parameter(scale.log()) for name, (scale, _) in self.simulation.grids.items()}
        groups.append({"params": list(self.logarithms.values()), "base": options.scale_rate})
        # An activation that clips is fused into rounding only while its grid ends where it clips.
        clipping = {node.name for node in self.simulation.module.graph.nodes if node.target in CLIPPING}
        self.ceilings = {
            name: float(logarithm.detach()) for name, logarithm in self.logarithms.items() if name in clipping
        }
        self.optimizer = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99))

    def step(self, images: torch.Tensor, schedule: float, labels: torch.Tensor | None) -> None:
        """One step of gradient descent; `schedule` scales all learning rates, `labels` (n,) are the true ones."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * schedule
        with torch.no_grad():
            wanted, features = self.simulation.run_float(images, keep=self.probed)
        scales = {name: logarithm.exp() for name, logarithm in self.logarithms.items()}
        given, kept = self.simulation.run(images, keep=self.probed, scales=scales)
        loss = outputs_error(given, wanted)
        for name in self.probed:
            loss = loss + self.options.features / len(self.probed) * relative_error(kept[name], features[name])
        if labels is not None:
            loss = loss + self.options.labels * functional.cross_entropy(given[self.simulation.names[0]], labels)
        if not torch.isfinite(loss):
            raise ExportError("the distillation's loss is not finite", fix="try a smaller rate, or --quantize ptq")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            for name, ceiling in self.ceilings.items():
                self.logarithms[name].clamp_(max=ceiling)

    def finished(self, rung: str) -> Quantized:
        """The learned parameters and grids as a quantised model of that `rung`."""
        old = self.quantized.quantization
        captured = self.quantized.captured.with_parameters(
            {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}
        )
        grids = dict(old.activations)
        for name, logarithm in self.logarithms.items():
            grids[name] = Grid(float(logarithm.detach().exp()), old.activations[name].zero_point)
        weights = {name: tuple(self.simulation.weight_scales(name).tolist()) for name in old.weights}
        quantization = Quantization(
            grids,
            weights,
            rung,
            {**old.calibration, "epochs": self.options.epochs},
            old.weight_levels,
            old.in_float,
        )
        values = node_values(captured, self.quantized.probe)
        return tie_free(Quantized(captured, quantization, self.quantized.probe, values))


_SAVED = {"options", "epoch", "seconds", "optimizer", "parameters", "logarithms"}


class _State:
    """What an interrupted distillation goes on from."""

    def __init__(self, student: _Student, options: DistillOptions, file: Path | None) -> None:
        self.student, self.options, self.file = student, options, file
        self.epoch, self.seconds = 0, 0.0
        saved = None if file is None else _read(file)
        if saved is None or saved["options"] != asdict(options):
            return
        self.epoch, self.seconds = saved["epoch"], saved["seconds"]
        student.optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for kind, held in (("parameters", student.parameters), ("logarithms", student.logarithms)):
                for name, parameter in held.items():
                    parameter.copy_(saved[kind][name])

    def save(self, epoch: int, seconds: float) -> None:
        """Written beside and renamed: there is a whole state or none, as when the disk cannot be written."""
        if self.file is not None:
            # torch's own writer raises RuntimeError when the disk is full.
            with suppress(OSError, OutputError, RuntimeError):
                self._write(self.file, epoch, seconds)

    def _write(self, file: Path, epoch: int, seconds: float) -> None:
        make_cache_folder(file.parent)
        student = self.student
        state = {
            "options": asdict(self.options),
            "epoch": epoch,
            "seconds": seconds,
            "optimizer": student.optimizer.state_dict(),
            "parameters": {name: value.detach() for name, value in student.parameters.items()},
            "logarithms": {name: value.detach() for name, value in student.logarithms.items()},
        }
        with replacing(file) as stream:
            torch.save(state, stream)

    def drop(self) -> None:
        """A distillation that is over leaves nothing to go on from."""
        if self.file is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any] | None:
    """What was saved; None when nothing was, or when it is damaged."""
    try:
        with open_regular(file) as content:
            saved = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch's unpickler raises whatever the damage leads to
        return None
    return saved if isinstance(saved, dict) and saved.keys() >= _SAVED else None


def rate_left(by_steps: float, step: float, by_time: float) -> float:
    """The share of the learning rate, 1..0 along half a cosine, when so much (0..1) of the steps and of the time is
    over; `step` is what one step is of them all. 0 is the end.

    Time counts when it runs out sooner, by more than a step: until then the clock changes nothing, and a run can be
    repeated to the last bit.
    """
    progress = by_time if by_time > by_steps + step else by_steps
    return 0.0 if progress >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * progress))


def outputs_error(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean over outputs, by name, of their `relative_error`; integers have no gradient and are left out."""
    errors = [relative_error(given[name], values) for name, values in wanted.items() if values.is_floating_point()]
    return errors[0] if len(errors) == 1 else torch.stack(errors).mean()


def relative_error(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The squared error (n, ...) of each image relative to the energy that is wanted; the mean over images."""
    error = (given - wanted).square().flatten(1).sum(1)
    return (error / wanted.square().flatten(1).sum(1).clamp(min=1e-12)).mean()


def batches(
    images: npt.NDArray[np.uint8], options: DistillOptions, epoch: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Images on `device`, in an order that depends on the epoch alone, mirrored and cut at random: few photos go a
    longer way.
    """
    generator = _generator(options, epoch)
    for chosen in _parts(len(images), options, generator):
        batch = torch.from_numpy(images[chosen.numpy()]).to(device)
        if torch.rand((), generator=generator) < 0.5 and options.mirror:
            batch = batch.flip(2)
        yield _cut(batch, torch.rand(3, generator=generator).tolist())


def _generator(options: DistillOptions, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(options.seed * 1000 + epoch)


def _parts(n: int, options: DistillOptions, generator: torch.Generator) -> Sequence[torch.Tensor]:
    """Places of `n` images, batch by batch, by a generator that has drawn nothing yet."""
    return torch.split(torch.randperm(n, generator=generator), options.batch_size)


def _checked(labels: npt.NDArray[np.int64], n: int, captured: Captured) -> torch.Tensor:
    shape, classes = captured.single.output.shape, len(captured.source.labels)
    if shape != (1, classes) or len(captured.outputs) > 1:
        raise UsageError(
            f"labels of images say nothing of {', '.join(spec.name for spec in captured.outputs)} {list(shape)}",
            fix="--quantize distill needs no labels",
        )
    if labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            f"labels of shape {labels.shape} do not fit {n} images and {classes} logits",
            fix="one whole number for each image, from 0",
        )
    return torch.from_numpy(labels.astype(np.int64))


def _cut(images: torch.Tensor, where: Sequence[float]) -> torch.Tensor:
    """A window of 75 to 100 % of height and width, at the same place in all images, brought to full size again."""
    height, width = images.shape[1:3]
    share = 0.75 + 0.25 * where[0]
    rows, columns = round(share * height), round(share * width)
    top, left = round(where[1] * (height - rows)), round(where[2] * (width - columns))
    window = images[:, top : top + rows, left : left + columns].permute(0, 3, 1, 2).float()
    resized = functional.interpolate(window, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
