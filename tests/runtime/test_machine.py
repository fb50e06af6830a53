"""What the CPU offers for int8, from what Linux says of it."""

from __future__ import annotations

import pytest

from edgetl_runtime.machine import CpuFeatures, cpu_features, describe_machine


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni\n", CpuFeatures("x86", ("avx2", "avx512_vnni"), True)),
        ("AMD64", "flags\t\t: fpu avx2 avx_vnni\n", CpuFeatures("x86", ("avx2", "avx_vnni"), True)),
        ("x86_64", "vmx flags\t: vnmi\nflags\t\t: fpu avx2 avx512f\n", CpuFeatures("x86", ("avx2", "avx512f"), False)),
        ("aarch64", "Features\t: fp asimd asimddp i8mm\n", CpuFeatures("arm", ("asimd", "asimddp", "i8mm"), True)),
        ("aarch64", "Features\t: fp asimd crc32\n", CpuFeatures("arm", ("asimd",), False)),
        ("aarch64", "Features : asimd asimddp\n\nFeatures : asimd\n", CpuFeatures("arm", ("asimd",), False)),
        ("arm64", "", CpuFeatures("arm", None, None)),
        ("riscv64", "isa\t: rv64imafdc\n", CpuFeatures("other", None, None)),
    ],
    ids=["vnni", "avx-vnni", "no vnni", "dotprod", "cortex-a72", "cores that differ", "no cpuinfo", "neither"],
)
def test_features_from_cpuinfo(machine: str, cpuinfo: str, expected: CpuFeatures) -> None:
    assert CpuFeatures.of(machine, cpuinfo) == expected


def test_flags_that_make_the_dot_product() -> None:
    assert CpuFeatures("x86", ("avx2", "avx512_vnni"), True).dot_product_flags == ("avx512_vnni",)
    assert CpuFeatures("other", None, None).dot_product_flags == ()


def test_this_machine() -> None:
    features = cpu_features()
    assert (features.flags is None) == (features.dot_product is None)
    assert describe_machine()["processor"]
