"""Memory: the peak of a fresh process that loads a variant and runs it once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgetl.verify.report import Memory
from edgetl_runtime.errors import EngineError

__all__ = ["measure_memory"]

_PROBE = Path(__file__).with_name("memory_probe.py")
_SECONDS = 120


def measure_memory(bundle: Path, variant_id: str, *, threads: int) -> Memory:
    """Start a process for `variant_id` of `bundle` and read its peak.

    Raises `EngineError` with the last line of what the process said when it fails.
    """
    # -P: the probe's own folder stays off the module path, where it would hide the standard library's `html`.
    command = [sys.executable, "-P", str(_PROBE), str(bundle), variant_id, str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{variant_id}: the memory measurement took longer than {_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{variant_id}: the memory measurement failed: {last}") from None
    return Memory(peak_rss_bytes=int(done.stdout))
