from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgetl.verify.measure.system_load import Moment, describe_system_load, read_moment, waited_share

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
    assert list(describe_system_load(moments)) == told


def span(waited: float = 0.0, others: float = 0.0, stolen: float = 0.0) -> tuple[Moment, Moment]:
    """Ten seconds of a process with one thread, in which it waited so many, others worked and the host took away."""
    own = 10.0 - waited
    before = Moment(3000.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2, clock=5.0, waited=1.0)
    return before, Moment(3000.0, 20.0, own + others, stolen, own, 1.0, 2, clock=15.0, waited=1.0 + waited)


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([span()], 0.0),
        ([span(others=10.0)], 0.0),  # on the other core
        ([span(waited=4.0, others=14.0)], 0.4),
        ([span(waited=4.0, others=14.0), span()], 0.2),
        ([span(waited=4.0)], 0.0),  # its own threads wait for each other
        ([span(waited=4.0, others=1.0)], 0.1),
        ([span(stolen=2.0)], 0.2),
        ([span(waited=9.99, others=20.0)], 0.95),
        ([], None),
        ([(replace(QUIET, waited=1.0), replace(QUIET, waited=1.0))], None),  # no time
        ([span(), (QUIET, QUIET)], None),  # a system that does not tell
    ],
)
def test_the_wait_for_a_core_that_others_had(spans: list[tuple[Moment, Moment]], share: float | None) -> None:
    assert waited_share(spans) == (None if share is None else pytest.approx(share))


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not tell")  # noqa: PTH110
def test_a_thread_without_a_core_waits() -> None:
    """Two threads of work that lets go of the interpreter, and one core for both."""
    cores = os.sched_getaffinity(0)
    before = read_moment()
    os.sched_setaffinity(0, {min(cores)})
    try:
        threads = [threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha1", b"x", b"y", 400_000)) for _ in "ab"]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        after = read_moment()
        for thread in threads:
            thread.join()
    finally:
        os.sched_setaffinity(0, cores)
    assert after.waited is not None
    assert before.waited is not None
    assert after.waited - before.waited > 0.02
    assert after.clock > before.clock


def test_a_machine_that_tells_nothing() -> None:
    silent = Moment(None, None, None, None, 1.0, None, 2)
    assert describe_system_load([silent, silent]) == ()


def test_reading_linux(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(
        f"cpu  {10 * tick} {2 * tick} {3 * tick} {70 * tick} {5 * tick} 0 {tick} {4 * tick} 0 0\n"
        "cpu0 1 1 1 1 1 1 1 1 0 0\n"
    )
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 2000.5\nmodel name: X\ncpu MHz\t\t: 3000.5\n")
    for thread, nanoseconds in (("7", 1_500_000_000), ("8", 500_000_000)):
        (tmp_path / "self/task" / thread).mkdir(parents=True)
        (tmp_path / "self/task" / thread / "schedstat").write_text(f"9 {nanoseconds} 3\n")
    moment = read_moment(tmp_path, tmp_path / "none")
    assert moment.waited == 2.0
    assert (moment.total, moment.busy, moment.stolen, moment.mhz) == (95.0, 16.0, 4.0, 2500.5)
    clock = tmp_path / "cpu0/cpufreq/scaling_cur_freq"
    clock.parent.mkdir(parents=True)
    clock.write_text("1800000\n")
    assert read_moment(tmp_path, tmp_path).mhz == 1800.0


def test_where_there_is_no_proc(tmp_path: Path) -> None:
    moment = read_moment(tmp_path, tmp_path)
    assert (moment.total, moment.busy, moment.stolen, moment.mhz) == (None, None, None, None)
    assert moment.waited is None
