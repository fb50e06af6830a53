"""What the numbers were measured on: the runtime's description of the machine, and the libraries that took part."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from edgetl_runtime.machine import describe_machine

__all__ = ["describe_workbench"]

_LIBRARIES = (
    "edgetl",
    "numpy",
    "pillow",
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "tflite-runtime",
    "tensorflow",
    "litert-torch",
    "ai-edge-quantizer",
)
# Instructions that decide how fast int8 and fp16 run; the names are those of /proc/cpuinfo on x86 and Arm.
_TELLING_FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "asimdhp", "i8mm", "sve"),
)
_CPUINFO = Path("/proc/cpuinfo")


def describe_workbench() -> dict[str, Any]:
    """This machine for a report: what the runtime says of it, and in addition

    ``memory_bytes`` (``None`` when unknown), ``cpu_flags`` that int8 and fp16 depend on (Linux), and the versions
    of the installed ``libraries`` by distribution name. Nothing in it identifies the machine or its owner.
    """
    return {
        **describe_machine(),
        "memory_bytes": _memory_bytes(),
        "cpu_flags": _cpu_flags(_CPUINFO.read_text(encoding="utf-8", errors="replace")) if _CPUINFO.is_file() else [],
        "libraries": _versions(),
    }


def _cpu_flags(cpuinfo: str) -> list[str]:
    """The telling flags of the first processor that Linux lists ("flags" on x86, "Features" on Arm)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = value.split()
            return [flag for flag in _TELLING_FLAGS if flag in flags]
    return []


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows has no sysconf, other systems not these names


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
