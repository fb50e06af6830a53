from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgetl.verify.disturbance import Moment, describe_disturbances, read_moment

QUIET = Moment(mhz=3000.0, total=100.0, busy=10.0, stolen=0.0, own=5.0, load=0.5, cores=2)


def later(seconds: float, **changes: float) -> Moment:
    """A moment `seconds` after QUIET of a machine of two cores; `others` and `stolen` are shares of its time."""
    work = changes.get("own", 0.5) * seconds
    return Moment(
        mhz=changes.get("mhz", 3000.0),
        total=100.0 + 2 * seconds,
        busy=10.0 + work + changes.get("others", 0.0) * 2 * seconds,
        stolen=changes.get("stolen", 0.0) * 2 * seconds,
        own=5.0 + work,
        load=changes.get("load", 0.5),
        cores=2,
    )


@pytest.mark.parametrize(
    ("moments", "told"),
    [
        ([], []),
        ([QUIET], []),
        ([QUIET, later(10)], []),
        ([QUIET, later(10, mhz=2900.0)], []),
        ([QUIET, later(10, mhz=2000.0)], ["the CPU's clock was between 2.00 and 3.00 GHz"]),
        ([QUIET, later(10, others=0.1)], []),
        ([QUIET, later(10, others=0.5), later(20, others=0.5)], ["other processes took 50% of the 2 cores"]),
        ([QUIET, later(10), later(20, others=0.4)], ["other processes took between 8% and 72% of the 2 cores"]),
        ([QUIET, later(10, stolen=0.1)], ["the host of this virtual machine took 10% of its time"]),
        ([QUIET, later(10, load=5.0)], ["up to 5.0 processes wanted the 2 cores (load average)"]),
        ([QUIET, later(10, own=2.0)], []),
    ],
)
def test_what_is_worth_a_line(moments: list[Moment], told: list[str]) -> None:
    assert list(describe_disturbances(moments)) == told


def test_a_machine_that_tells_nothing() -> None:
    silent = Moment(None, None, None, None, 1.0, None, 2)
    assert describe_disturbances([silent, silent]) == ()


def test_reading_linux(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(
        f"cpu  {10 * tick} {2 * tick} {3 * tick} {70 * tick} {5 * tick} 0 {tick} {4 * tick} 0 0\n"
        "cpu0 1 1 1 1 1 1 1 1 0 0\n"
    )
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 2000.5\nmodel name: X\ncpu MHz\t\t: 3000.5\n")
    moment = read_moment(tmp_path, tmp_path / "none")
    assert (moment.total, moment.busy, moment.stolen, moment.mhz) == (95.0, 16.0, 4.0, 2500.5)
    clock = tmp_path / "cpu0/cpufreq/scaling_cur_freq"
    clock.parent.mkdir(parents=True)
    clock.write_text("1800000\n")
    assert read_moment(tmp_path, tmp_path).mhz == 1800.0


def test_where_there_is_no_proc(tmp_path: Path) -> None:
    moment = read_moment(tmp_path, tmp_path)
    assert (moment.total, moment.busy, moment.stolen, moment.mhz) == (None, None, None, None)
