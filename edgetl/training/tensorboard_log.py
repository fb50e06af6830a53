"""Training as TensorBoard shows it: scalars by epoch, written as the epochs come or from a finished history."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Self

from edgetl.models.training_history import Epoch, History
from edgetl_runtime.errors import MissingDependency, OutputError
from edgetl_runtime.escaping import encodable

__all__ = ["TensorBoardLog", "check_log", "write_log"]

_TAGS = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "val_top1": "top-1/validation",
    "lr": "learning rate/head",
}


class TensorBoardLog:
    """An open folder of TensorBoard's, one for a training; close it, or use it with ``with``.

    Raises `MissingDependency` without TensorBoard and `OutputError` where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency("tensorboard", needed_for="--tensorboard", extra="tensorboard") from error
        if encodable(str(folder)) != str(folder):
            raise OutputError(
                f"TensorBoard cannot write to {folder}: its name is no UTF-8", fix="another --tensorboard"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error}", fix="choose another --tensorboard") from error

    def epoch(self, epoch: Epoch) -> None:
        """Every number of an epoch: losses in nats, top-1 as a share, the rest by its name."""
        values = dataclasses.asdict(epoch)
        number = values.pop("epoch")
        scalars = {_TAGS.get(name, f"epoch/{name}"): value for name, value in values.items()}
        for name, parts in values.items():
            if isinstance(parts, dict):
                scalars |= {f"{name}/{part}": value for part, value in parts.items()}
        for tag, value in scalars.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(tag, value, number)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_log(folder: Path) -> None:
    """What `TensorBoardLog` raises, before anything expensive; leaves the folder as it was."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    TensorBoardLog(folder).close()
    for made in set(folder.iterdir()) - before:
        made.unlink()
    for parent in missing:
        parent.rmdir()


def write_log(history: History, folder: Path) -> None:
    """All epochs of a finished training. Raises what `TensorBoardLog` raises."""
    with TensorBoardLog(folder) as log:
        for epoch in history.epochs:
            log.epoch(epoch)
