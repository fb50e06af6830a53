"""What training did, epoch by epoch: as values, as JSON, as a plot."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetl.figure_file import write_figure
from edgetl_runtime.errors import CheckpointError, MissingDependency
from edgetl_runtime.escaping import json_value
from edgetl_runtime.files import read_regular
from edgetl_runtime.writing import write_file

__all__ = ["HISTORY_FILE", "Epoch", "History", "read_rows"]

HISTORY_FILE = "history.json"
"""What a history is called beside its checkpoint."""
_LARGEST = 16 * 2**20


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images; losses are those of the task (cross-entropies in nats), ``val_top1`` is its
    quality on the validation images, a fraction: top-1 where a label is all, whence the name.

    ``train_loss`` has class weights and label smoothing in it, ``val_loss`` has not. ``lr`` is the head's at the end
    of the epoch, ``None`` where the solver has none. ``seconds`` counts from the start of training. ``phase`` is
    ``head`` or ``network``; of a network's, ``trained_stages`` counts the last stages that were trained (``None``:
    all), and ``spent`` has the epoch's seconds by part: waiting for images, forward, backward, step, validation.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_top1: float
    lr: float | None
    seconds: float
    phase: str = "network"
    trained_stages: int | None = None
    spent: dict[str, float] = field(default_factory=dict)

    def told(self, quality: str) -> str:
        """Losses and quality in a line; `quality` is what the task calls it."""
        return f"loss {self.train_loss:.3f}, of validation {self.val_loss:.3f}; {quality} {self.val_top1:.1%}"

    def better_than(self, other: Epoch) -> bool:
        """Higher validation accuracy; at the same accuracy, lower validation loss."""
        return (self.val_top1, -self.val_loss) > (other.val_top1, -other.val_loss)


@dataclass(frozen=True)
class History:
    """All epochs; the checkpoint holds the weights of ``best``."""

    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        """The epoch that is kept."""
        return max(self.epochs, key=lambda e: (e.val_top1, -e.val_loss))

    def named(self, epoch: Epoch) -> str:
        """``epoch 7``, or ``epoch 30 of the head``: counted from the start of its phase, as it was shown."""
        number = 1 + sum(other.phase == epoch.phase for other in self.epochs if other.epoch < epoch.epoch)
        return f"epoch {number}{' of the head' if epoch.phase == 'head' else ''}"

    def to_json(self) -> str:
        """``{"best_epoch": .., "epochs": [{...}]}``, indented."""
        rows = [dataclasses.asdict(epoch) for epoch in self.epochs]
        whole = json_value({"best_epoch": self.best.epoch, "epochs": rows})  # a loss may go astray: it becomes null
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the JSON. Raises `OutputError`."""
        write_file(path, self.to_json())

    def plot(self, path: Path) -> None:
        """Losses, accuracy and, where there is one, learning rate over epochs; the suffix (.png, .svg) says which kind.

        Raises `MissingDependency` without matplotlib, `OutputError` when it cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependency("matplotlib", needed_for="the plot of the history", extra="report") from error
        rates = [(epoch.epoch, epoch.lr) for epoch in self.epochs if epoch.lr is not None]
        panels = 3 if rates else 2
        figure = Figure(figsize=(4.5 * panels, 3.5), layout="constrained")
        losses, accuracy, *others = figure.subplots(1, panels)
        at = [epoch.epoch for epoch in self.epochs]
        losses.plot(at, [epoch.train_loss for epoch in self.epochs], label="training")
        losses.plot(at, [epoch.val_loss for epoch in self.epochs], label="validation")
        losses.set(xlabel="epoch", ylabel="loss (nats)")
        losses.legend()
        accuracy.plot(at, [epoch.val_top1 * 100 for epoch in self.epochs], color="C1")
        accuracy.plot([self.best.epoch], [self.best.val_top1 * 100], "o", color="C1", label=f"{self.best.val_top1:.1%}")
        accuracy.set(xlabel="epoch", ylabel="validation quality (%)")
        accuracy.legend()
        for panel in others:
            panel.plot(*zip(*rates, strict=True), color="C2")
            panel.set(xlabel="epoch", ylabel="learning rate of the head")
        write_figure(figure, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The epochs of a saved history as dictionaries; empty when there is none. Raises `CheckpointError` for damage."""
    if not path.is_file():
        return []
    try:
        return [dict(row) for row in json.loads(read_regular(path, limit=_LARGEST))["epochs"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot read the history {path}: {error!r}", fix="copy the folder again") from error
