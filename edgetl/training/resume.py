"""A training in progress, on disk: what a killed or interrupted one goes on from, to the same end to the last bit.

Everything random depends on seed, epoch and image alone, but for dropout, whose generator is part of the state.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from edgetl.models.torch_files import read_torch_file
from edgetl_runtime.errors import CheckpointError, OutputError, UsageError
from edgetl_runtime.termination import Terminated
from edgetl_runtime.writing import replacing

__all__ = ["Interrupted", "Keeping", "listening", "unfinished"]

_FILE = "snapshot.pt"
_SCHEMA = 1


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal, `number`, after the step that it came in, with the state written down."""

    number: int = signal.SIGINT


def unfinished(out: Path) -> Path:
    """The folder beside the destination `out` in which a training in progress is kept."""
    return out.with_name(f"{out.name}.training")


@dataclass
class Keeping:
    """Where a training keeps its state, and whether it goes on from what is there. ``folder`` None keeps nothing."""

    folder: Path | None = None
    resume: bool = False
    trouble: str | None = None

    @property
    def _there(self) -> bool:
        return self.folder is not None and (self.folder / _FILE).exists()

    def check(self, *, force: bool = False) -> None:
        """Raise `UsageError` when a training is there and not asked to go on, or asked to and not there.

        With `force` the one that is there is removed.
        """
        there = self._there
        if there and force and not self.resume:
            self.drop()
            return
        if self.resume and not there:
            raise UsageError(f"there is nothing to resume in {self.folder}", fix="leave --resume out")
        if there and not self.resume:
            raise UsageError(
                f"{self.folder} holds a training that was not finished",
                fix="--resume goes on with it, --force starts anew",
            )

    def read(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state to go on from. Raises `UsageError` when it was of another training than `about` says."""
        if not self.resume or self.folder is None:
            return None
        file = self.folder / _FILE
        anew = f"remove {self.folder} and start anew"
        saved = read_torch_file(file, fix=anew)
        if not isinstance(saved, dict) or not isinstance(saved.get("about"), dict) or "schema" not in saved:
            raise CheckpointError(f"{file} does not hold the state of a training", fix=anew)
        schema, was = saved["schema"], saved["about"]
        if not isinstance(schema, int) or schema > _SCHEMA:
            raise CheckpointError(f"{file} has schema {schema}, this edgetl reads {_SCHEMA}", fix="update edgetl")
        changed = [key for key in sorted({*about, *was}) if about.get(key) != was.get(key)]
        if changed:
            told = "; ".join(f"{key} was {was.get(key)!r}, is {about.get(key)!r}" for key in changed[:5])
            raise UsageError(
                f"{self.folder} holds another training: {told}",
                fix=f"resume with the same photos and options, or remove {self.folder}",
            )
        return saved

    def write(self, about: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Replace what is there, whole or not at all. A disk that is full only costs the state: ``trouble`` says so."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / _FILE) as file:
                torch.save({"schema": _SCHEMA, "about": dict(about), **state}, file)
        except (OSError, OutputError, RuntimeError) as error:  # torch's own writer raises RuntimeError on a full disk
            reason = error.what if isinstance(error, OutputError) else str(error).splitlines()[0]
            self.trouble = f"the state of the training could not be written to {self.folder}: {reason}"

    @contextmanager
    def through(self) -> Iterator[None]:
        """Inside, an interruption says that there is something to go on from, when there is."""
        try:
            yield
        except Interrupted:
            raise
        except KeyboardInterrupt:
            if self._there:
                raise self.interrupted() from None
            raise

    def interrupted(self) -> Interrupted:
        """To be raised when the state was kept."""
        if self.trouble is not None:
            return Interrupted(self.trouble)
        return Interrupted(f"the training is kept in {self.folder}: the same command with --resume goes on")

    def drop(self) -> None:
        """What is finished leaves nothing to go on from; what else lies in the folder is not ours and stays."""
        if self.folder is not None:
            with suppress(OSError):
                (self.folder / _FILE).unlink(missing_ok=True)
                self.folder.rmdir()


class _Heard:
    """Whether a signal asked to stop."""

    def __init__(self) -> None:
        self.stop = False
        self.number: int = signal.SIGINT


@contextmanager
def listening(*, active: bool) -> Iterator[_Heard]:
    """Inside, the first SIGINT or SIGTERM only asks to stop after the step; the next one interrupts at once.

    Not `active`, or outside the main thread, where Python lets nobody listen, signals do what they always do.
    """
    heard = _Heard()
    if not active or threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if heard.stop:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        heard.stop, heard.number = True, number

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    except Interrupted as interrupted:
        interrupted.number = heard.number
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
