"""One step: a batch of images in, the weights a little better."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgetl.data.augment import augmented, moves
from edgetl.tasks.task import Targets
from edgetl.training.job import Job
from edgetl.training.mixing import Mix
from edgetl.training.stopwatch import Stopwatch
from edgetl.training.teacher import open_teacher
from edgetl_runtime.errors import UsageError

__all__ = ["Batch", "Stepper", "autocast_dtype"]

_LEAST_PART = 2
"""Images that batch normalisation can be trained on."""


@dataclass(frozen=True, eq=False)
class Batch:
    """This process's images of a step: uint8 (B, H, W, C), targets (B, ...), and augmentation's draws (B, K).

    ``images`` counts those of all processes; ``at`` is (epoch, step), which everything random follows from.
    """

    pixels: Tensor
    targets: Tensor
    draws: Tensor
    images: int
    at: tuple[int, int]
    mix: Mix | None = None


class Stepper:
    """An optimiser with the network that it changes."""

    def __init__(self, job: Job, groups: list[dict[str, Any]]) -> None:
        options = job.plan.options
        self._job, self._options = job, options
        for group in groups:
            group["full_lr"] = group["lr"]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.dtype = autocast_dtype(options.precision, job.device)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=self.dtype is torch.float16)
        self.parts = options.accumulate
        self.objective = job.objective(job.device, smoothing=options.label_smoothing or 0.0)
        self._teacher = open_teacher(options, job.data.labels, job.spec.channels, job.device)
        self._trained: tuple[bool, ...] = ()
        self._network: nn.Module = job.model

    def wrap(self) -> None:
        """Get ready for what is trained now; to be called when that may have changed."""
        trained = tuple(parameter.requires_grad for parameter in self._job.model.parameters())
        if trained == self._trained:
            return
        self._trained = trained
        self._network = self._job.processes.wrapped(self._job.model, self._job.device)
        if self._options.compile:
            self._network.compile()

    def step(self, batch: Batch, rate: float, watch: Stopwatch) -> Tensor:
        """One step at `rate` times the full learning rate; the loss, summed over this process's images, unsynchronised.

        When a GPU's memory is too small the step is done again in twice as many parts, and so are those after it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * rate
        while True:
            try:
                loss = self._gradients(batch, watch)
                break
            except torch.OutOfMemoryError:
                self._halve(batch)
        with watch("step"):
            if self._options.clip_gradient is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self._job.model.parameters(), self._options.clip_gradient)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss

    def _halve(self, batch: Batch) -> None:
        smallest = len(batch.targets) // (2 * self.parts)
        if smallest < _LEAST_PART or self._job.processes.world > 1:
            raise UsageError(
                f"the GPU's memory is too small for {len(batch.targets)} images in {self.parts} parts",
                fix=f"--batch-size {max(2, len(batch.targets) // 2)} or --accumulate {2 * self.parts}",
            )
        self.parts *= 2
        torch.cuda.empty_cache()
        note = f"out of memory: batches go through the network in {self.parts} parts of {smallest} images"
        self._job.notes.append(note)
        self._job.tell(note)

    def _gradients(self, batch: Batch, watch: Stopwatch) -> Tensor:
        job = self._job
        # Dropout is the only thing that draws from torch's own generator.
        torch.manual_seed(_seed(job.plan.options.seed, *batch.at, job.processes.rank))
        self.optimizer.zero_grad()
        total = torch.zeros((), device=job.device)
        parts = max(1, min(self.parts, len(batch.targets) // _LEAST_PART))
        slices = [slice(rows[0], rows[-1] + 1) for rows in np.array_split(np.arange(len(batch.targets)), parts)]
        for rows in slices:
            with self._synchronised(last=rows is slices[-1]):
                with watch("forward"):
                    losses = self._losses(batch, rows)
                    total += losses.detach().sum()
                with watch("backward"):
                    # Gradients are averaged over processes, so this is the mean over the images of all.
                    loss = losses.sum() * (job.processes.world / batch.images)
                    self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return total

    def _losses(self, batch: Batch, rows: slice) -> Tensor:
        job, device = self._job, self._job.device
        pixels, targets, draws = (
            value[rows].to(device, non_blocking=True) for value in (batch.pixels, batch.targets, batch.draws)
        )
        levels, share = augmented(pixels, draws, job.augmentation, job.spec.crop), 1.0
        size = (pixels.shape[1], pixels.shape[2])
        place = partial(moves, draws, job.augmentation, size, job.spec.crop)
        targets = job.task.follow(targets, place, size, job.spec.crop)
        if batch.mix is not None:
            levels, share = batch.mix.images(levels)
        teacher = None if self._teacher is None else self._teacher(levels)
        images = job.normalized.levels(levels)
        with torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            outputs = job.outputs(self._network(images))
        return self.objective(outputs, Targets(targets, share, teacher))

    def _synchronised(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients of all but the last part stay with their process."""
        if last or not isinstance(self._network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        waiting: AbstractContextManager[None] = self._network.no_sync()
        return waiting


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What matrix products and convolutions are computed in; ``auto`` is 16 bits on a GPU and float32 on a CPU.

    With bfloat16 a CPU is slower: gradients of depthwise convolutions with strides take 7 to 40 times as long (seen
    with AVX-512 bf16, PyTorch 2.14). Raises `UsageError` for what the device cannot do.
    """
    if precision == "fp16" and device.type != "cuda":
        raise UsageError("fp16 training needs a GPU", fix="--train-precision bf16, or fp32")
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
