"""How a measured process says what it reached. Imported after the clock has stopped, and light all the same."""

import json
import sys
import time

__all__ = ["peak_bytes", "report"]

_STATUS = "/proc/self/status"


def report(label: str, ended: int, **more: float) -> None:
    """Print one line of JSON for `runtime_processes.started`: label, `time.monotonic_ns` then, memory, modules."""
    cpu = time.process_time() * 1e3
    modules = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"__main__"})
    found = {"label": label, "ended": ended, "cpu_ms": cpu, "peak": peak_bytes(), "modules": modules}
    print(json.dumps({**found, **more}), flush=True)


def peak_bytes() -> int:
    """Most resident memory of this process so far.

    On Linux VmHWM: ru_maxrss outlives exec there, so that a child of a large process reports its parent's peak.
    """
    try:
        with open(_STATUS, encoding="ascii") as lines:  # noqa: PTH123 - pathlib would be one more import to measure
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
