"""A process of its own that loads one variant, runs it once and prints the most memory that it held, in bytes.

`edgetl.verify.memory` starts this file; it imports the runtime and nothing else, so that nothing else is counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from edgetl_runtime.bundle import open_bundle

__all__ = ["main", "peak_rss_bytes"]

_STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> None:
    """Print the peak for ``BUNDLE VARIANT THREADS``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variant")
    parser.add_argument("threads", type=int)
    given = parser.parse_args(arguments)
    bundle = open_bundle(given.bundle)
    spec = bundle.manifest.input
    with bundle.session(given.variant, threads=given.threads, verify=False) as session:
        session.run({spec.name: np.zeros([max(1, length) for length in spec.shape], dtype=spec.dtype)})
    print(peak_rss_bytes())


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


if __name__ == "__main__":
    main(sys.argv[1:])
