"""What happened to the machine while latency was measured: other processes, another clock, a host that took time.

Only Linux tells (/proc); elsewhere nothing is noticed.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Moment", "describe_system_load", "read_moment", "waited_share"]

_PROC = Path("/proc")
_CLOCKS = Path("/sys/devices/system/cpu")
_CHANGED_CLOCK = 0.1
"""Share of the fastest clock: turbo alone moves it by a few percent."""
_OTHERS = 0.2
_STOLEN = 0.02
"""Shares of the machine's time that are worth a line."""
_MOST_WAITED = 0.95
"""Whoever waited longer still ran."""


@dataclass(frozen=True)
class Moment:
    """The machine at one moment; ``None`` for what it does not tell.

    ``mhz``: mean clock of the cores. The others add up since the machine started, in seconds over all cores:
    ``total``, ``busy`` (anybody's work), ``stolen`` (by the host of a virtual machine), ``own`` (this process's work).
    ``load``: how many processes wanted to run in the last minute. ``cores`` of the machine. ``clock`` is the time
    itself, in seconds, and ``waited`` adds up how long this process's threads were ready to run and had no core.
    """

    mhz: float | None
    total: float | None
    busy: float | None
    stolen: float | None
    own: float
    load: float | None
    cores: int
    clock: float = 0.0
    waited: float | None = None


def read_moment(proc: Path = _PROC, clocks: Path = _CLOCKS) -> Moment:
    """Look at the machine; takes well under a millisecond."""
    times = os.times()
    total, busy, stolen = _cpu_seconds(_text(proc / "stat"))
    return Moment(
        mhz=_clock(proc, clocks),
        total=total,
        busy=busy,
        stolen=stolen,
        own=times.user + times.system,
        load=_load(),
        cores=os.cpu_count() or 1,
        clock=time.monotonic(),
        waited=_waited(proc),
    )


def waited_share(spans: Sequence[tuple[Moment, Moment]]) -> float | None:
    """The share of the time from the first to the second moment of all `spans` in which this process wanted to run and
    others had the core: other processes, or the host of a virtual machine. None where the machine does not tell.

    Threads of this process that wait for each other do not count, so that it is never more than what others ran.
    """
    waited = others = seconds = 0.0
    for before, after in spans:
        if before.waited is None or before.busy is None or before.stolen is None:
            return None
        if after.waited is None or after.busy is None or after.stolen is None:
            return None
        stolen = after.stolen - before.stolen
        # A thread that ended took its number with it.
        waited += max(0.0, after.waited - before.waited) + stolen
        others += max(0.0, after.busy - before.busy - (after.own - before.own)) + stolen
        seconds += after.clock - before.clock
    return min(_MOST_WAITED, waited / seconds, others / seconds) if seconds > 0 else None


def describe_system_load(moments: Sequence[Moment]) -> tuple[str, ...]:
    """What changed between the `moments`, in the order they were seen, one sentence each; none on a quiet machine."""
    if not moments:
        return ()
    said = [_about_clock(moments), _about_others(moments), _about_host(moments), _about_load(moments)]
    return tuple(text for text in said if text is not None)


def _about_clock(moments: Sequence[Moment]) -> str | None:
    clocks = [moment.mhz for moment in moments if moment.mhz is not None]
    if not clocks or max(clocks) - min(clocks) <= _CHANGED_CLOCK * max(clocks):
        return None
    return f"the CPU's clock was between {min(clocks) / 1000:.2f} and {max(clocks) / 1000:.2f} GHz"


def _about_others(moments: Sequence[Moment]) -> str | None:
    """The work of others, from look to look: a steady load is told as one number, a changing one as two."""
    shares = []
    for before, after in itertools.pairwise(moments):
        if before.total is None or after.total is None or before.busy is None or after.busy is None:
            continue
        if after.total > before.total:
            others = after.busy - before.busy - (after.own - before.own)
            shares.append(min(1.0, max(0.0, others / (after.total - before.total))))
    if not shares or max(shares) <= _OTHERS:
        return None
    low, high = np.percentile(shares, (10, 90))
    amount = f"{np.median(shares):.0%}" if high - low <= _OTHERS else f"between {low:.0%} and {high:.0%}"
    return f"other processes took {amount} of the {moments[0].cores} cores"


def _about_host(moments: Sequence[Moment]) -> str | None:
    first, last = moments[0], moments[-1]
    if first.total is None or last.total is None or first.stolen is None or last.stolen is None:
        return None
    share = (last.stolen - first.stolen) / max(last.total - first.total, 1e-9)
    return f"the host of this virtual machine took {share:.0%} of its time" if share > _STOLEN else None


def _about_load(moments: Sequence[Moment]) -> str | None:
    loads = [moment.load for moment in moments if moment.load is not None]
    if not loads or max(loads) <= moments[0].cores:
        return None
    return f"up to {max(loads):.1f} processes wanted the {moments[0].cores} cores (load average)"


def _cpu_seconds(stat: str) -> tuple[float, float, float] | tuple[None, None, None]:
    """Total, busy and stolen seconds of all cores: the first line of /proc/stat, see proc(5)."""
    words = stat.split("\n", 1)[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None, None, None
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9]
    )
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, busy, steal


def _waited(proc: Path) -> float | None:
    """Seconds that the threads of this process waited on a run queue so far: the second number of their schedstat, in
    nanoseconds (Documentation/scheduler/sched-stats.rst of Linux)."""
    found = [_text(path).split() for path in proc.glob("self/task/[0-9]*/schedstat")]
    waits = [int(words[1]) for words in found if len(words) == 3 and words[1].isdigit()]
    return sum(waits) / 1e9 if waits else None


def _clock(proc: Path, clocks: Path) -> float | None:
    """Mean clock in MHz: what cpufreq says, else what the processor's description says."""
    kilohertz = [_text(path) for path in sorted(clocks.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    found = [float(text) / 1000 for text in kilohertz if text.strip().isdigit()]
    if not found:
        found = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([0-9.]+)", _text(proc / "cpuinfo"), re.M)]
    return float(np.mean(found)) if found else None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None  # Windows has none


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
