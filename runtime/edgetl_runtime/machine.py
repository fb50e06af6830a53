"""The machine a measurement was made on, and the instructions that decide how fast int8 is on it."""

from __future__ import annotations

import os
import platform

from edgetl_runtime.frozen import dataclass

__all__ = ["CpuFeatures", "cpu_features", "describe_machine", "usable_cores"]

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_ARM = frozenset({"aarch64", "arm64", "armv7l", "armv8l", "armv6l"})
# By the names of /proc/cpuinfo.
_X86_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_ARM_FLAGS = ("asimd", "asimddp", "i8mm", "sve")
_DOT_PRODUCT = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True)
class CpuFeatures:
    """What the CPU offers for int8.

    ``architecture`` is "x86", "arm" or "other"; ``flags`` are those that matter, by their names in /proc/cpuinfo,
    None when they cannot be read; ``dot_product``: whether one of them multiplies int8 and adds up in int32 in one
    instruction (VNNI and AMX on x86, dot product and i8mm on ARM), None when that is not known.
    """

    architecture: str
    flags: tuple[str, ...] | None
    dot_product: bool | None

    @property
    def dot_product_flags(self) -> tuple[str, ...]:
        """Which of the flags make ``dot_product`` true."""
        return tuple(flag for flag in self.flags or () if flag in _DOT_PRODUCT)

    @classmethod
    def of(cls, machine: str, cpuinfo: str) -> CpuFeatures:
        """From the name of the architecture (`platform.machine`) and the text of /proc/cpuinfo, "" if there is none.

        Cores that differ (big.LITTLE) count for what all of them have: a run may land on any.
        """
        name = machine.lower()
        architecture = "x86" if name in _X86 else "arm" if name in _ARM else "other"
        # The lines of the cores: "flags" on x86, "Features" on ARM.
        cores = [
            set(value.split())
            for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
            if key.strip() in ("flags", "Features")
        ]
        if architecture == "other" or not cores:
            return cls(architecture, None, None)
        common = set.intersection(*cores)
        flags = tuple(flag for flag in (_X86_FLAGS if architecture == "x86" else _ARM_FLAGS) if flag in common)
        return cls(architecture, flags, not _DOT_PRODUCT.isdisjoint(flags))


def usable_cores() -> int:
    """Number of CPU cores this process may run on: fewer than the machine has under taskset or a container."""
    # Linux only; and what the type checker runs on must not decide what it sees.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def cpu_features() -> CpuFeatures:
    """The features of this machine's CPU; only Linux tells them."""
    return CpuFeatures.of(platform.machine(), _cpuinfo())


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
    lines = [line for line in _cpuinfo().splitlines() if line.startswith(("model name", "Model\t", "Hardware"))]
    names = dict(line.split(":", 1) for line in lines)
    found = next((name.strip() for name in names.values()), "")
    return found or platform.processor() or platform.machine()


def _cpuinfo() -> str:
    """What Linux says of every core; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123 - not a user's path
            return lines.read()
    except OSError:
        return ""
