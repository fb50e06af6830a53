"""The words for devices that mean the same in every engine, and what is said when a device is not there."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl_runtime.errors import EngineError

__all__ = ["ANYWHERE", "DEVICES", "unavailable"]

DEVICES = ("cpu", "gpu", "npu", "edgetpu", "auto")
"""``auto`` is an accelerator where the engine finds one, else the CPU."""

ANYWHERE = ("cpu", "auto")
"""Devices that leave it to the engine where an operator runs, so that none can fall back."""


def unavailable(device: str, engine: str, reason: str, *, known: Sequence[str], fix: str | None = None) -> EngineError:
    """The error for a `device` that `engine` does not have here; `known` are the devices that it has."""
    there = f"use one of: {', '.join(known)}"
    return EngineError(
        f"{engine} has no device {device!r} here: {reason}", fix=there if fix is None else f"{fix}   or   {there}"
    )
