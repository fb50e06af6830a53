"""The machine a measurement was made on, and the instructions that decide how fast int8 is on it."""

from __future__ import annotations

import functools
import math
import os
import platform

from edgetl_runtime.frozen import dataclass

__all__ = ["CpuFeatures", "cpu_features", "cpu_quota", "describe_machine", "usable_cores"]

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

    @property
    def adds_in_16_bits(self) -> bool:
        """Whether engines add pairs of products in 16 bits here: x86 without VNNI, where large ones are clipped."""
        return self.architecture == "x86" and self.dot_product is False

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
    """Number of CPU cores this process may use: fewer than the machine has under taskset or in a container.

    Half a core (``docker --cpus 0.5``) is one, one and a half are two: more threads than that only wait for each other.
    """
    # Linux only; and what the type checker runs on must not decide what it sees.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _own_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


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


@functools.cache
def _own_quota() -> float | None:
    return cpu_quota()


def cpu_quota(root: str = "/") -> float | None:
    """Cores' worth of time that Linux gives this process's control group (cgroup), None without a limit.

    The least of its group and those above it, in either version of cgroups. `root` is the folder with ``proc`` and
    ``sys``.
    """
    quotas: list[float] = []
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        files: tuple[str, ...] = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        if not controllers:  # version 2, alone or beside version 1
            mounts, files = ("", "/unified"), ("cpu.max",)
        elif "cpu" in controllers.split(","):
            mounts = (f"/{controllers}", "/cpu")
        else:
            continue
        # In a container the path may be the host's, which is not there: what is mounted is then the container's own.
        parts = path.strip("/").split("/")
        groups = dict.fromkeys("/".join(["", *parts[:n]]) for n in range(len(parts) + 1))
        for folder in (f"{root}/sys/fs/cgroup{mount}{group}" for mount in mounts for group in groups):
            quota = _quota(" ".join(_read(f"{folder}/{file}") for file in files))
            quotas += [] if quota is None else [quota]
    return min(quotas, default=None)


def _quota(text: str) -> float | None:
    """Cores' worth of time by a quota and its period, both in microseconds; None without a limit ("max", or -1)."""
    given = text.split()
    if len(given) != 2 or not all(number.isdecimal() and number.isascii() for number in given):
        return None
    quota, period = map(int, given)
    return quota / period if quota and period else None


def _cpuinfo() -> str:
    """What Linux says of every core; empty elsewhere."""
    return _read("/proc/cpuinfo")


def _read(path: str) -> str:
    """A file of the system; empty when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - not a user's path
            return file.read()
    except OSError:
        return ""
