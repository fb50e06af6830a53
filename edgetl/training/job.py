"""What every part of a training needs, and how far it has come."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from edgetl.data.augmentation import Augmentation
from edgetl.data.dataset import Dataset, Sample
from edgetl.data.loader import Normalizer, Pixels
from edgetl.models.heads import HeadSpec
from edgetl.models.training_history import Epoch, History
from edgetl.models.weight_files import State
from edgetl.tasks import task_of
from edgetl.tasks.task import Objective, Task
from edgetl.training.plan import Plan
from edgetl.training.processes import ALONE, Processes
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_export.source import by_name
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = ["Job", "Progress"]


@dataclass(eq=False)
class Job:
    """A network and what it is trained on, how, and where."""

    model: nn.Module
    data: Dataset
    spec: Preprocess
    normalize: Normalize
    head: HeadSpec | None
    plan: Plan
    augmentation: Augmentation
    device: torch.device
    processes: Processes = ALONE
    track: Track = silent
    tell: Tell = untold
    notes: list[str] = field(default_factory=list)

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the network takes."""
        return (self.spec.channels, *self.spec.crop)

    @property
    def normalized(self) -> Normalizer:
        """Grey levels to what the network takes."""
        return Normalizer(self.normalize, self.device)

    def pixels(self, samples: Sequence[Sample], kind: Literal["train", "eval"]) -> Pixels:
        """`samples` as images of one size, with what they should give."""
        return Pixels(
            samples,
            self.spec,
            kind=kind,
            targeting=self.task.targets,
            cache=self.plan.options.cache,
            track=self.track,
        )

    @property
    def task(self) -> Task:
        """What is learned."""
        return task_of(self.data.task)

    def objective(self, device: torch.device, *, smoothing: float) -> Objective:
        """The loss that the options ask for, of outputs that are on `device`."""
        return self.task.objective(self.data, self.head, self.plan.options, device, smoothing=smoothing)

    def outputs(self, given: Any) -> dict[str, torch.Tensor]:
        """What the network gives, by name."""
        return by_name(given, self.task.outputs)


@dataclass(eq=False)
class Progress:
    """The epochs so far, and the weights of the best of them."""

    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)
    state: State = field(default_factory=dict)

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far."""
        return History(tuple(self.epochs)).best if self.epochs else None

    @property
    def seconds(self) -> float:
        """Since the start of the training, without the time between an interruption and going on."""
        return self.before + time.monotonic() - self.began

    def judged(self, epoch: Epoch, model: nn.Module) -> None:
        """Take an epoch in, and the weights of `model` when none was better."""
        best = self.best
        self.epochs.append(epoch)
        if best is None or epoch.better_than(best):
            self.state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}

    def is_over(self, patience: int | None) -> bool:
        """Whether as many as `patience` epochs passed without a better one."""
        best = self.best
        return patience is not None and best is not None and self.epochs[-1].epoch - best.epoch >= patience

    def diverged(self, loss: float, where: str, *, has_rate: bool) -> str:
        """What to tell of a loss that is not finite, when there are weights to keep; else raise `UsageError`."""
        fix = "a lower --lr, or weights that fit" if has_rate else "check the weights that it started from"
        best = self.best
        if best is None:
            raise UsageError(f"training diverged in {where}: the loss is {loss}", fix=fix)
        kept = History(tuple(self.epochs)).named(best)
        return f"training diverged in {where} (loss {loss}) and ended; {kept} is kept; to train on: {fix}"

    def saved(self) -> dict[str, Any]:
        """As plain values and tensors, for `restored`."""
        rows = [dataclasses.asdict(epoch) for epoch in self.epochs]
        return {"epochs": rows, "state": self.state, "seconds": self.seconds}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Progress:
        """What `saved` gave."""
        return cls(before=saved["seconds"], epochs=[Epoch(**row) for row in saved["epochs"]], state=saved["state"])
