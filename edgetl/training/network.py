"""The network's training, epoch by epoch: read it from top to bottom.

AdamW with warm-up and a cosine, mixed precision, augmentation on the device. What a step does depends on seed, epoch
and step alone, so that a training may be stopped after any of them and go on later as if nothing had been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetl.data.augment import epoch_draws
from edgetl.data.loader import ahead, filled
from edgetl.models.training_history import Epoch
from edgetl.models.weights import put_back
from edgetl.training.class_balance import balanced_order
from edgetl.training.ema import Average
from edgetl.training.job import Job, Progress
from edgetl.training.layers import Layers, drop_before_head, parameter_groups, unfreezing
from edgetl.training.mixing import draw_mix
from edgetl.training.options import TrainOptions
from edgetl.training.resume import Keeping, listening
from edgetl.training.stepper import Batch, Stepper
from edgetl.training.stopwatch import Stopwatch

__all__ = ["shuffled", "train_network", "warm_up_and_cosine"]

_SECONDS_BETWEEN_STATES = 900.0
_STEPS_BETWEEN_CHECKS = 20
"""To look at a loss is to wait for the GPU."""


def train_network(
    job: Job, progress: Progress, keeping: Keeping, about: Mapping[str, Any], saved: Mapping[str, Any] | None
) -> None:
    """Train ``job.model``; the best weights end up in `progress`.

    The state is kept in `keeping` after every epoch, and when a signal asks to stop, which raises `Interrupted`.
    `saved` is such a state. Raises `UsageError` when the first epoch diverges, and `DataError` for an image that cannot
    be read.
    """
    training = _Training(job, progress, keeping, about)
    if saved is not None:
        training.restore(saved)
    with listening(active=keeping.folder is not None) as heard:
        while training.goes_on:
            loss = training.train_epoch(lambda: heard.stop)
            if loss is None or not training.judge_epoch(loss):
                break
    job.notes += dict.fromkeys((*training.train.notes, *training.val.notes))
    if keeping.trouble is not None:
        job.notes.append(keeping.trouble)


class _Training:
    """Everything that changes while it trains; ``epoch`` and ``step`` are the next to do."""

    def __init__(self, job: Job, progress: Progress, keeping: Keeping, about: Mapping[str, Any]) -> None:
        options = job.plan.options
        assert options.epochs is not None
        assert options.batch_size is not None
        assert options.warmup is not None
        self.job, self.progress, self.keeping, self.about, self.options = job, progress, keeping, about, options
        if options.dropout is not None:
            drop_before_head(job.model, options.dropout)
        model = job.processes.shared_statistics(job.model, job.device)
        job.model = model.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layers = Layers(job.model, frozen_statistics=options.batch_norm == "frozen")
        self.trained_in = unfreezing(options, job.model, options.epochs, job.image)
        with job.processes.one_after_the_first():
            self.train, self.val = job.pixels(job.data.train, "train"), job.pixels(job.data.val, "eval")
        self.stepper = Stepper(job, parameter_groups(job.model, options))
        self.average = Average(job.model, options.ema) if options.ema else None
        self.size = options.batch_size * job.processes.world
        self.epochs, self.steps = options.epochs, len(self.batches_of(1))
        self.factor = warm_up_and_cosine(self.epochs * self.steps, options.warmup)
        self.epochs_before = len(progress.epochs)
        self.epoch, self.step, self.seen = 1, 0, 0
        self.total = torch.zeros((), device=job.device)
        self.watch = Stopwatch()
        self.kept_at = time.monotonic()

    @property
    def goes_on(self) -> bool:
        return self.epoch <= self.epochs and not self.progress.is_over(self.options.patience)

    def batches_of(self, epoch: int) -> Sequence[Sequence[int]]:
        """The images of each step of all processes, by index."""
        job = self.job
        return shuffled(self.train.labels, self.options, epoch, self.size, job.processes.world, job.device)

    def train_epoch(self, stop: Callable[[], bool]) -> float | None:
        """The rest of the epoch; its mean loss, None when it diverged after an epoch that did not."""
        job, options = self.job, self.options
        self.layers.train_last(self.trained_in(self.epoch))
        self.layers.mode_of_training()
        self.stepper.wrap()
        draws = epoch_draws(self.steps * self.size, options.seed, self.epoch)
        todo = self.batches_of(self.epoch)[self.step :]
        batches = ahead(self.train, map(job.processes.share, todo), pin=job.device.type == "cuda")
        shown = job.track(batches, what=f"epoch {self.epoch}/{self.epochs}", total=len(todo))
        for whole, (pixels, targets, _) in zip(todo, self.watch.waited(shown), strict=True):
            first = self.step * self.size
            batch = Batch(
                pixels,
                targets,
                draws[first : first + len(whole)][job.processes.part(len(whole))],
                images=len(whole),
                at=(self.epoch, self.step),
                mix=draw_mix(options.mixup, options.cutmix, seed=options.seed, epoch=self.epoch, step=self.step),
            )
            rate = self.factor((self.epoch - 1) * self.steps + self.step)
            self.total += self.stepper.step(batch, rate, self.watch)
            if self.average is not None:
                self.average.update(job.model)
            self.step += 1
            self.seen += len(whole)
            if self.step % _STEPS_BETWEEN_CHECKS == 0 and not self.still_finite():
                return None
            self.keep_if_asked(stop())
        return float(job.processes.summed(self.total)) / self.seen if self.still_finite() else None

    def still_finite(self) -> bool:
        """Whether the loss is a number; when it is not, what was good is kept, or there is a `UsageError`."""
        total = float(self.job.processes.summed(self.total.clone()))
        if math.isfinite(total):
            return True
        where = f"epoch {self.epoch_number}, step {self.step} of {self.steps}"
        note = self.progress.diverged(total, where, has_rate=True)
        self.job.notes.append(note)
        self.job.tell(note)
        return False

    def keep_if_asked(self, stop: bool) -> None:
        """Keep the state now and then, and before stopping."""
        if self.job.processes.world > 1:
            stop = self.job.processes.summed(torch.tensor(float(stop), device=self.job.device)).item() > 0
        if stop or time.monotonic() - self.kept_at > _SECONDS_BETWEEN_STATES:
            self.keep()
        if stop:
            raise self.keeping.interrupted()

    def judge_epoch(self, train_loss: float) -> bool:
        """Judge the weights on the validation images, keep the state; False when their loss is not finite."""
        job, watch = self.job, self.watch
        watch.settle(job.device)
        with watch("validation"):
            if self.average is None:
                val_loss, val_top1 = self.judged()
            else:
                with self.average.in_place_of(job.model):
                    val_loss, val_top1 = self.judged()
        if not math.isfinite(val_loss):
            job.notes.append(self.progress.diverged(val_loss, f"the validation of epoch {self.epoch}", has_rate=True))
            return False
        rate = float(self.stepper.optimizer.param_groups[0]["lr"])
        epoch = Epoch(
            self.epoch_number,
            train_loss,
            val_loss,
            val_top1,
            rate,
            self.progress.seconds,
            phase="network",
            trained_stages=self.trained_in(self.epoch),
            spent={name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        )
        if self.average is None:
            self.progress.judged(epoch, job.model)
        else:
            with self.average.in_place_of(job.model):
                self.progress.judged(epoch, job.model)
        job.tell(f"epoch {self.epoch}/{self.epochs}: {epoch.told(job.task.quality)}; {watch.told(self.seen)}")
        self.epoch, self.step, self.seen, self.total, self.watch = (
            self.epoch + 1, 0, 0, torch.zeros_like(self.total), Stopwatch(),
        )  # fmt: skip
        self.keep()
        return True

    def judged(self) -> tuple[float, float]:
        """Loss and quality of the validation images as the device will see them, in float32; each is judged once."""
        job = self.job
        job.model.eval()
        own = job.processes.share(range(len(self.val)))
        parts = [own[start : start + self.size] for start in range(0, len(own), self.size)]
        rows = []
        with torch.inference_mode():
            for pixels, targets, _ in ahead(self.val, parts, pin=job.device.type == "cuda"):
                truth = targets.to(job.device, non_blocking=True)
                given = job.outputs(job.model(job.normalized(filled(pixels, min(self.size, len(own)), job.device))))
                rows.append(self.stepper.objective.judge(_first(given, len(truth)), truth))
        return self.stepper.objective.judged(job.processes.gathered(torch.cat(rows)))

    @property
    def epoch_number(self) -> int:
        """Counted on from the epochs of the head."""
        return self.epochs_before + self.epoch

    def keep(self) -> None:
        """Write the state down."""
        self.kept_at = time.monotonic()
        total = self.job.processes.summed(self.total.clone())
        if not self.job.processes.first:
            return
        average = None if self.average is None else {"steps": self.average.steps, "values": self.average.values}
        state = {
            "progress": self.progress.saved(),
            "epochs_before": self.epochs_before,
            "at": [self.epoch, self.step, self.seen],
            "total": total,
            "model": self.job.model.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "average": average,
            "parts": self.stepper.parts,
        }
        self.keeping.write(self.about, state)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `keep` wrote."""
        self.epochs_before = saved["epochs_before"]
        self.epoch, self.step, self.seen = saved["at"]
        # The sum over all processes goes on in the first one.
        self.total = saved["total"].to(self.job.device) * float(self.job.processes.first)
        put_back(self.job.model, saved["model"])
        self.stepper.optimizer.load_state_dict(saved["optimizer"])
        self.stepper.scaler.load_state_dict(saved["scaler"])
        self.stepper.parts = saved["parts"]
        if self.average is not None:
            self.average.restore(saved["average"]["steps"], saved["average"]["values"])


def _first(outputs: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: values[:n].float() for name, values in outputs.items()}


def shuffled(
    labels: Tensor, options: TrainOptions, epoch: int, size: int, world: int, device: torch.device
) -> Sequence[Sequence[int]]:
    """The order of an epoch in steps of `size` images for `world` processes together; the same for the same arguments.

    For a GPU the last step is filled up with the first images once more (`edgetl.data.loader.filled`). Elsewhere, one
    with fewer than two images for a process alone, or none for one of several, is left out: batch normalisation cannot
    train on it.
    """
    if options.imbalance == "sampler":
        order = balanced_order(labels, options.seed, epoch)
    else:
        order = np.random.default_rng((options.seed, epoch)).permutation(len(labels)).tolist()
    if device.type == "cuda" and len(order) > size:
        order += order[: -len(order) % size]
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < max(2, world) else parts


def warm_up_and_cosine(n_steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at each step: linear up over the first `warmup` of them, half a cosine down to 0."""
    first = round(n_steps * warmup)

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / (first + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, n_steps - first))))

    return factor
