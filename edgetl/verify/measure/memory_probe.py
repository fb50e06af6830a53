"""A process of its own that loads one variant, runs it once and prints what that took, as JSON.

`edgetl.verify.measure.memory` starts this file; it imports the runtime alone, so that nothing else is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["main", "peak_rss_bytes", "waited_ms"]

_STATUS = Path("/proc/self/status")
_SCHEDSTAT = Path("/proc/self/schedstat")


def main(arguments: list[str]) -> None:
    """Print ``peak_rss_bytes``, ``import_ms``, ``load_ms`` and ``first_ms`` for ``BUNDLE VARIANT THREADS``, and
    ``waited_ms``, for how much of these three together the process waited for a core."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variant")
    parser.add_argument("threads", type=int)
    given = parser.parse_args(arguments)
    found: dict[str, float] = {}
    before = waited_ms()
    with _clock(found, "import_ms"):
        import numpy as np

        from edgetl_runtime.bundle import open_bundle
        from edgetl_runtime.engines import engine_info
    # What is read of the manifest before the library is known belongs to loading.
    with _clock(found, "load_ms"):
        bundle = open_bundle(given.bundle)
        library = engine_info(bundle.manifest.variant(given.variant).requires.engine).library()
    if library is not None:
        # One that cannot be imported is told by the session, with what to do about it.
        with _clock(found, "import_ms"), contextlib.suppress(ImportError):
            importlib.import_module(library.module)
    with _clock(found, "load_ms"):
        session = bundle.session(given.variant, threads=given.threads)
    with session:
        spec = session.inputs[0]
        image = np.zeros([max(1, length) for length in spec.shape], dtype=spec.dtype)
        with _clock(found, "first_ms"):
            session.run({spec.name: image})
    print(json.dumps({"peak_rss_bytes": peak_rss_bytes(), "waited_ms": waited_ms() - before, **found}))


@contextlib.contextmanager
def _clock(found: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter_ns()
    yield
    found[part] = found.get(part, 0.0) + (time.perf_counter_ns() - start) / 1e6


def peak_rss_bytes() -> int:
    """Most resident memory of this process so far, in bytes.

    On Linux this is VmHWM, not getrusage's ru_maxrss: the latter outlives exec, so a child of a large process would
    report its parent's peak.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def waited_ms() -> float:
    """How long the main thread of this process was ready to run and had no core; 0 where the system does not tell."""
    if not _SCHEDSTAT.is_file():
        return 0.0
    return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
