"""Where networks are trained: on a GPU when there is one. Imports torch when it is asked: options are read without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgetl_runtime.errors import ExportError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["DEVICES", "device_named", "distilling"]

DEVICES = ("auto", "cpu", "cuda")
"""``auto`` is a GPU when there is one."""


def device_named(name: str) -> torch.device:
    """One of `DEVICES` as a device; of several GPUs this process's own, as torchrun says.

    Raises `UsageError` for another name, for ``cuda`` where there is none, and for a process without one of its own.
    """
    import torch

    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}", fix="device auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", fix="device auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= there:
        raise UsageError(
            f"process {place} of this machine has no GPU of its own: there {'is' if there == 1 else 'are'} {there}",
            fix=f"torchrun --nproc-per-node {there}, or --device cpu",
        )
    return torch.device("cuda", place)


@contextmanager
def distilling(batch_size: int) -> Iterator[None]:
    """Inside, a GPU convolves float32 as float32: by default it rounds to the 11 bits of TF32 first, and a level times
    a scale is none of those. Raises `ExportError` when its memory is too small for batches of this size.
    """
    import torch

    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    except torch.OutOfMemoryError as error:
        raise ExportError(
            f"the GPU's memory is too small to distil in batches of {batch_size} images", fix="--device cpu"
        ) from error
