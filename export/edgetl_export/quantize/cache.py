"""Calibrations kept on disk: the same weights and the same images are not run through the network twice."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.calibrate import Calibration, calibrate
from edgetl_export.quantize.ranges import Range
from edgetl_runtime.cache import keep, own_cache
from edgetl_runtime.files import read_regular

__all__ = ["calibrate_once", "key_of"]

_VERSION = 2
_LARGEST = 2**30  # bytes of what is kept

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged zip of arrays raises; RuntimeError where a flipped bit says that it is encrypted."""


def key_of(captured: Captured, samples: CalibrationSamples, *facts: object) -> str:
    """SHA-256 over the graph, its parameters, the images and whatever else the result depends on."""
    digest = hashlib.sha256(f"{_VERSION} {captured.batched.code} {samples.fingerprint} {facts!r}".encode())
    for name, value in captured.module.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()


def calibrate_once(captured: Captured, samples: CalibrationSamples, *, track: Track = silent) -> Calibration:
    """`calibrate`, or what it gave for the same network and images before.

    A file that cannot be read is calibrated anew, and a cache that cannot be written is left alone: it only saves time.
    """
    folder = own_cache("calibration")
    if folder is None:
        return calibrate(captured, samples, track=track)
    file = folder / f"{key_of(captured, samples)}.npz"
    kept = _read(file)
    if kept is None:
        kept = calibrate(captured, samples, track=track)
        _write(file, kept)
    return kept


def _read(file: Path) -> Calibration | None:
    try:
        with np.load(io.BytesIO(read_regular(file, limit=_LARGEST)), allow_pickle=False) as saved:
            nodes, methods = saved["nodes"].tolist(), saved["methods"].tolist()
            ranges = {
                method: {node: Range(float(low), float(high)) for node, (low, high) in zip(nodes, rows, strict=True)}
                for method, rows in zip(methods, saved["ranges"], strict=True)
            }
            return Calibration(ranges, saved["probe"], int(saved["n"]), str(saved["fingerprint"]))
    except _UNREADABLE:
        return None


def _write(file: Path, calibration: Calibration) -> None:
    methods = list(calibration.ranges)
    nodes = list(calibration.ranges[methods[0]])
    ranges = [
        [(found.low, found.high) for found in (calibration.ranges[method][node] for node in nodes)]
        for method in methods
    ]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        nodes=np.array(nodes),
        methods=np.array(methods),
        ranges=np.array(ranges, np.float64),
        probe=calibration.probe,
        n=np.array(calibration.n),
        fingerprint=np.array(calibration.fingerprint),
    )
    keep(file, content.getvalue())
