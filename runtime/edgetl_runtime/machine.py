"""The machine a measurement was made on."""

from __future__ import annotations

import os
import platform

__all__ = ["describe_machine", "usable_cores"]


def usable_cores() -> int:
    """Number of CPU cores this process may run on: fewer than the machine has under taskset or a container."""
    # Linux only; and what the type checker runs on must not decide what it sees.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def describe_machine() -> dict[str, str | int]:
    """What a latency depends on, for reports: system, architecture, processor name, cores, Python."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor_name(),
        "cores": usable_cores(),
        "python": platform.python_version(),
    }


def _processor_name() -> str:
    """From /proc/cpuinfo where there is one: `platform.processor` is empty or generic on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123 - not a user's path
            names = dict(line.split(":", 1) for line in lines if line.startswith(("model name", "Model\t", "Hardware")))
    except OSError:
        names = {}
    found = next((name.strip() for name in names.values()), "")
    return found or platform.processor() or platform.machine()
