"""Memory and cold start: fresh processes that load a variant and run it once."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from edgetl.verify.report import Memory
from edgetl_runtime.errors import EngineError
from edgetl_runtime.trial import ending

__all__ = ["PROCESSES", "measure_memory"]

PROCESSES = 3
"""Fresh processes a variant: one may meet a machine that is busy, the median of three rarely does."""

_PROBE = Path(__file__).with_name("memory_probe.py")
_SECONDS = 120
_MOST_WAITED = 0.95


def measure_memory(bundle: Path, variant_id: str, *, threads: int, processes: int = PROCESSES) -> Memory:
    """Start `processes` for `variant_id` of `bundle`, one after the other: the highest peak, the median of each time.

    The files lie in the system's cache, as they do on a device that started before. Raises `EngineError` with the last
    line of what the process said when it fails.
    """
    probes = [_probe(bundle, variant_id, threads) for _ in range(processes)]
    starts = [probe["import_ms"] + probe["load_ms"] + probe["first_ms"] for probe in probes]

    def median(name: str) -> float:
        return statistics.median(probe[name] for probe in probes)

    return Memory(
        peak_rss_bytes=int(max(probe["peak_rss_bytes"] for probe in probes)),
        load_ms=median("load_ms"),
        first_ms=median("first_ms"),
        import_ms=median("import_ms"),
        cold_start_ms=statistics.median(starts),
        waited=min(_MOST_WAITED, sum(probe["waited_ms"] for probe in probes) / sum(starts)),
    )


def _probe(bundle: Path, variant_id: str, threads: int) -> dict[str, float]:
    """What one process says of itself."""
    # -P: the probe's own folder stays off the module path, where it would hide the standard library's `html`.
    command = [sys.executable, "-P", str(_PROBE), str(bundle), variant_id, str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{variant_id}: the memory measurement took longer than {_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        # The fix is told on a line of its own.
        said = [line for line in error.stderr.strip().splitlines() if not line.startswith("  fix: ")]
        last = (said or [ending(error.returncode)])[-1].rpartition("Error: ")[2]
        raise EngineError(f"{variant_id}: the memory measurement failed: {last}") from None
    # An engine may greet the user first.
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
