"""That freed memory stays with the process while it is asked for, and not afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BLOCK = 100 << 20
PROGRAM = f"""
import resource, sys
import numpy as np
from edgetl_export.memory import memory_reused

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones({BLOCK}, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with memory_reused():
    with memory_reused():
        np.ones({BLOCK}, np.uint8)
    inside, held = faults(), resident()
print(inside, faults(), held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc")
def test_pages_are_asked_for_once_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    inside, after, returned = map(int, done.stdout.split())
    assert inside * 10 < after
    assert returned > 0.9 * BLOCK
