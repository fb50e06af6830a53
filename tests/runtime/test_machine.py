"""What the CPU offers for int8, and how much of it a process may use, from what Linux says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl_runtime import load
from edgetl_runtime.machine import CpuFeatures, cpu_features, cpu_quota, describe_machine, usable_cores


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


@pytest.mark.parametrize(("flags", "adds"), [("avx2", True), ("avx2 avx_vnni", False), ("fpu", True)])
def test_x86_without_vnni_adds_in_16_bits(flags: str, adds: bool) -> None:
    assert CpuFeatures.of("x86_64", f"flags : {flags}\n").adds_in_16_bits is adds
    assert not CpuFeatures.of("aarch64", f"Features : {flags}\n").adds_in_16_bits
    assert not CpuFeatures.of("x86_64", "").adds_in_16_bits, "it is not known"


def test_flags_that_make_the_dot_product() -> None:
    assert CpuFeatures("x86", ("avx2", "avx512_vnni"), True).dot_product_flags == ("avx512_vnni",)
    assert CpuFeatures("other", None, None).dot_product_flags == ()


def test_this_machine() -> None:
    features = cpu_features()
    assert (features.flags is None) == (features.dot_product is None)
    assert describe_machine()["processor"]


def system(root: Path, cgroup: str, files: dict[str, str]) -> str:
    """A root folder with control groups: the text of /proc/self/cgroup, and files below /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


V1 = "12:pids:/\n4:cpu,cpuacct:{}\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"cpu.max": "400000 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/kubepods/pod1/not-here\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/../outside\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (V1.format("/"), {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 0.5),
        (V1.format("/"), {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        (V1.format("/docker/1"), {"cpu/cpu.cfs_quota_us": "120000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.2),
        (
            V1.format("/docker/1") + "0::/docker/1\n",
            {"cpu/docker/1/cpu.cfs_quota_us": "20000", "cpu/docker/1/cpu.cfs_period_us": "10000", "unified/x": ""},
            2.0,
        ),
        ("0::/\n", {"cpu.max": "0 0\n"}, None),
        ("0::/\n", {"cpu.max": "\u00b2 100000\n"}, None),
        ("\n::\nnonsense\n", {"cpu.max": "much\n"}, None),
        ("", {"cpu.max": "50000 100000\n"}, None),
    ],
)
def test_the_quota_of_control_groups(
    cgroup: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(system(tmp_path, cgroup, files)) == expected


@pytest.mark.parametrize(
    ("quota", "cores", "expected"), [(0.5, 2, 1), (0.01, 2, 1), (1.0, 2, 1), (1.5, 4, 2), (8.0, 4, 4), (None, 3, 3)]
)
def test_threads_are_as_many_as_the_quota_feeds(
    quota: float | None, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl_runtime.machine._own_quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert usable_cores() == expected


def test_a_session_has_as_many_threads_as_the_quota_feeds(
    pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetl_runtime.engines import ort

    given: list[int] = []
    really = ort._open
    monkeypatch.setattr(ort, "_open", lambda *a: (given.append(a[2].threads), really(*a))[1])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    for quota in (0.5, 2.0):
        monkeypatch.setattr("edgetl_runtime.machine._own_quota", lambda quota=quota: quota)
        with load(pristine_bundle, variant="onnx.fp32") as classifier:
            assert classifier._threads == given[-1]
    assert given == [1, 2]
