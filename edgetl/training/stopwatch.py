"""Where the time of an epoch goes: waiting for data, forward, backward, the step, validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from edgetl_runtime import timing

__all__ = ["Stopwatch"]

T = TypeVar("T")


class Stopwatch(timing.Stopwatch):
    """A clock for each part.

    On a GPU, work is queued: a part's time is what the host needed, unless it had to wait there."""

    def waited(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each is there counts as ``wait``."""
        iterator = iter(items)
        while True:
            with self("wait"):
                item = next(iterator, _END)
            if isinstance(item, _End):
                return
            yield item

    def settle(self, device: torch.device) -> None:
        """Wait for a GPU, so that what was queued counts; the time is ``settle``'s."""
        if device.type == "cuda":
            with self("settle"):
                torch.cuda.synchronize(device)

    def told(self, images: int) -> str:
        """``"72 images/s: wait 3 %, forward 30 %, ..."`` of all that was counted."""
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in self.seconds.items())
        return f"{images / total:.0f} images/s: {parts}"


class _End:
    pass


_END = _End()
