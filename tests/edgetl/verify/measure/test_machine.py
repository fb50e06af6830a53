from __future__ import annotations

import json

import pytest

from edgetl.verify.measure.machine import _cpu_flags, describe_workbench
from edgetl_runtime.machine import usable_cores


def test_this_machine() -> None:
    machine = describe_workbench()
    assert machine["cores"] == usable_cores()
    assert "numpy" in machine["libraries"]
    assert json.loads(json.dumps(machine)) == machine


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\nprocessor\t: 1\nflags\t\t: fpu\n", ["avx2", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp aes\n", ["asimd", "asimddp"]),
        ("", []),
    ],
)
def test_flags_that_decide_the_speed_of_int8(cpuinfo: str, flags: list[str]) -> None:
    assert _cpu_flags(cpuinfo) == flags
