"""Learning-rate range test: a short training whose rate grows until the loss does, to see which rate fits.

Smith 2017, https://arxiv.org/abs/1506.01186. The network is thrown away afterwards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edgetl.data.augment import epoch_draws
from edgetl.data.augmentation import AugmentOptions
from edgetl.data.dataset import Dataset
from edgetl.data.loader import Pixels, ahead
from edgetl.figure_file import write_figure
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.options import ModelOptions
from edgetl.training.finetune import prepared
from edgetl.training.layers import Layers, drop_before_head, parameter_groups, unfreezing
from edgetl.training.network import shuffled
from edgetl.training.options import TrainOptions
from edgetl.training.stepper import Batch, Stepper
from edgetl.training.stopwatch import Stopwatch
from edgetl_export.device import device_named
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import MissingDependency, UsageError
from edgetl_runtime.writing import write_file

__all__ = ["LrRange", "lr_range"]

_SMOOTHING = 0.85
_DIVERGED = 3.0
"""Times the least loss, from its start on, at which the test ends."""


@dataclass(frozen=True)
class LrRange:
    """Learning rates of the head, the smoothed training loss (nats) at each, and the one that is suggested.

    That is the rate at which the loss falls fastest, as in fastai; a tenth of the rate of the least loss when that is
    lower.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def __str__(self) -> str:
        """A table of every fifth rate, and the suggestion."""
        rows = [f"{rate:9.1e}  {loss:6.3f}" for rate, loss in zip(self.rates[::5], self.losses[::5], strict=True)]
        least = min(self.losses)
        best = self.rates[self.losses.index(least)]
        told = f"--lr {self.suggestion:.1e} is suggested: the loss falls fastest there, and is least at {best:.1e}"
        return "\n".join(["     rate    loss", *rows, told])

    def save(self, path: Path) -> None:
        """Write ``{"rates": [..], "losses": [..], "suggestion": ..}``. Raises `OutputError`."""
        write_file(path, json.dumps(asdict(self), indent=2) + "\n")

    def plot(self, path: Path) -> None:
        """Loss over rate as a picture; the suffix (.png, .svg) says which kind. Raises `MissingDependency` without
        matplotlib, `OutputError` when it cannot be written."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependency("matplotlib", needed_for="the plot of the rates", extra="report") from error
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(self.rates, self.losses)
        axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggested: {self.suggestion:.1e}")
        axes.set(xlabel="learning rate of the head", ylabel="training loss (nats)")
        axes.legend()
        write_figure(figure, path)


def lr_range(
    data: Dataset,
    start: ModelOptions | Checkpoint,
    options: TrainOptions,
    augment: AugmentOptions | None = None,
    *,
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 60,
    track: Track = silent,
) -> LrRange:
    """Train for at most `steps` steps, at rates from `lowest` to `highest` in equal factors.

    Stages, batches, augmentation and the ratios between layers are those of `options`. Raises `UsageError` for strategy
    head, which has no learning rate.
    """
    device = device_named(options.device)
    with torch.random.fork_rng():
        job, _ = prepared(data, start, options, augment, device=device)
        job.track = track
        full = job.plan.options
        if not job.plan.network:
            raise UsageError("strategy head has no learning rate to look for", fix="--strategy full or last:N")
        assert full.lr is not None
        if full.dropout is not None:
            drop_before_head(job.model, full.dropout)
        job.model = job.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        layers = Layers(job.model, frozen_statistics=full.batch_norm == "frozen")
        layers.train_last(unfreezing(full, job.model, 1, job.image)(1))
        layers.mode_of_training()
        pixels = job.pixels(data.train, "train")
        stepper = Stepper(job, parameter_groups(job.model, full))
        stepper.wrap()
        rates = [lowest * (highest / lowest) ** (step / max(1, steps - 1)) for step in range(steps)]
        losses: list[float] = []
        average, watch = 0.0, Stopwatch()
        for step, batch in enumerate(track(_batches(pixels, full, steps, device), what="rates", total=steps)):
            loss = float(stepper.step(batch, rates[step] / full.lr, watch)) / batch.images
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            smooth = average / (1 - _SMOOTHING ** (step + 1))
            if not math.isfinite(smooth) or (losses and smooth > _DIVERGED * min(losses)):
                break
            losses.append(smooth)
    tried = rates[: len(losses)]
    return LrRange(tuple(tried), tuple(losses), _suggested(tried, losses))


def _batches(pixels: Pixels, options: TrainOptions, n: int, device: torch.device) -> Iterator[Batch]:
    """`n` steps of shuffled images, epoch after epoch."""
    size, step, epoch = options.batch_size or 1, 0, 0
    while step < n:
        epoch += 1
        order = shuffled(pixels.labels, options, epoch, size, 1, device)
        draws = epoch_draws(len(order) * size, options.seed, epoch)
        for place, (images, targets, _) in enumerate(ahead(pixels, order)):
            first = place * size
            yield Batch(images, targets, draws[first : first + len(targets)], images=len(targets), at=(epoch, place))
            step += 1
            if step == n:
                return


def _suggested(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the steepest fall over the logarithm of the rate, at most a tenth of the rate of the least loss."""
    if len(losses) < 5:
        raise UsageError(f"the loss grew after {len(losses)} steps", fix="a lower lowest rate")
    slopes = [losses[i + 1] - losses[i - 1] for i in range(1, len(losses) - 1)]
    steepest = rates[1 + slopes.index(min(slopes))]
    return min(steepest, rates[losses.index(min(losses))] / 10)
