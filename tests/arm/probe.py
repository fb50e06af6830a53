"""What one machine makes of the photos: pixels and logits in a file. Runs inside the emulator and beside it.

    python probe.py BUNDLE VARIANT PHOTOS.json OUT.npz

PHOTOS.json is a list of paths. OUT.npz has ``tensors`` (n, H, W, 3) uint8, ``logits`` (n, classes) float32, and
``about``, a JSON text: machine, libraries, seconds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import edgetl_runtime
from edgetl_runtime.machine import cpu_features, describe_machine

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Run the photos one by one, on one thread, and write what came out."""
    bundle, variant, photos, out = arguments
    paths: list[str] = json.loads(Path(photos).read_text(encoding="utf-8"))
    with edgetl_runtime.load(bundle, variant=variant, threads=1) as classifier:
        spec = classifier.manifest.preprocess
        tensors = np.stack([edgetl_runtime.preprocess(path, spec) for path in paths])
        start = time.perf_counter()
        logits = np.stack([classifier.logits(tensor) for tensor in tensors])
        seconds = time.perf_counter() - start
        about = {
            **describe_machine(),
            "cpu_features": dataclasses.asdict(cpu_features()),
            "engine": classifier.session.engine,
            "engine_version": classifier.session.engine_version,
            "numpy": version("numpy"),
            "pillow": version("pillow"),
            "edgetl": edgetl_runtime.__version__,
            "seconds_per_photo": seconds / len(paths),
        }
    np.savez(out, tensors=tensors, logits=logits, about=np.array(json.dumps(about)))


if __name__ == "__main__":
    main(sys.argv[1:])
