"""A model in a file that only this process has, for an engine that reads files itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from edgetl_runtime.engines.binding import ModelBytes, ModelPath
from edgetl_runtime.files import is_file

__all__ = ["as_private_file"]


@contextmanager
def as_private_file(model: ModelBytes) -> Iterator[ModelBytes | ModelPath]:
    """`model` in a nameless file in memory, or `model` itself where the system has no such files (only Linux does).

    Its bytes do not stay beside the engine's own copy of them: that was a sixth of the peak memory of MobileNetV2 in
    fp32. And it holds what was read and checked, whatever becomes of the file that they came from.
    """
    descriptor = _filled(model.main)
    if descriptor is None:
        yield model
        return
    name = model.name
    del model  # the caller keeps none either
    try:
        yield ModelPath(_path(descriptor), name)
    finally:
        os.close(descriptor)


def _filled(content: bytes) -> int | None:
    """A file with `content`; None where there can be none."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("edgetl-model")
    except OSError:  # forbidden, as some sandboxes do
        return None
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if is_file(_path(descriptor)):  # /proc may not be there
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
