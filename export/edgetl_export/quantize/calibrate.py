"""One pass of real images through the original model: the ranges that all three targets are quantised with."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.ranges import Histogram, Range
from edgetl_runtime.errors import DataError

__all__ = ["Calibration", "calibrate"]

_VALUES_PER_IMAGE = 16384
"""Of a larger tensor, every k-th value is counted."""

_LEAST_ENERGY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """Activation ranges by graph node, and how the nodes' values look on one image.

    ``probe`` (1, H, W, 3) uint8 is that image and ``values`` holds every node's output for it: a target finds its
    own tensors among them by value, whatever its converter named, transposed or fused.
    """

    ranges: dict[str, Range]
    probe: npt.NDArray[np.uint8]
    values: dict[str, npt.NDArray[np.float32]]
    n: int
    fingerprint: str

    def summary(self) -> dict[str, object]:
        """What the manifest says of an int8 variant."""
        return {
            "method": "static",
            "ranges": "least relative squared error",
            "weights": "int8 symmetric per output channel",
            "calibration": {"n": self.n, "fingerprint": self.fingerprint},
        }


def calibrate(captured: Captured, samples: CalibrationSamples, *, track: Track = silent) -> Calibration:
    """Stream `samples` through the captured module once; memory does not grow with their number.

    Raises `DataError` when an activation is not finite or the images are all the same.
    """
    recorder = _Recorder(captured.program.module())
    digest, distinct = hashlib.sha256(), set[bytes]()
    probe = np.zeros(captured.input.shape, np.uint8)
    with torch.inference_mode():
        for image in track(samples, what="calibrate", total=len(samples)):
            pixels = image.tobytes()
            digest.update(pixels)
            distinct.add(hashlib.sha256(pixels).digest()[:8])
            recorder.run(torch.from_numpy(image))
            probe = image
        if len(distinct) < 2:
            raise DataError("all calibration images are the same", fix="calibrate on photos like those of the device")
        values = recorder.values_for(torch.from_numpy(probe))
    ranges = {name: histogram.mse_range() for name, histogram in recorder.histograms.items()}
    # The largest logit decides: it is never clipped.
    ranges |= {name: recorder.histograms[name].full_range() for name in recorder.outputs}
    return Calibration(ranges, probe, values, len(samples), digest.hexdigest())


class _Recorder(fx.Interpreter):
    """Runs the graph node by node and counts the values of every float output."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.histograms: dict[str, Histogram] = {}
        self.outputs = [node.name for node in graph_module.graph.output_node().all_input_nodes]
        self._keep: dict[str, npt.NDArray[np.float32]] | None = None

    def values_for(self, image: torch.Tensor) -> dict[str, npt.NDArray[np.float32]]:
        """Every float node's output for one image, counted nowhere."""
        self._keep = {}
        self.run(image)
        kept, self._keep = self._keep, None
        return kept

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor) and result.is_floating_point():
            # numpy() is a view, and an in-place activation may overwrite it: count, or copy, at once.
            values = result.numpy()
            if self._keep is not None:
                self._keep[n.name] = values.copy()
            else:
                self._count(n, values)
        return result

    def _count(self, node: fx.Node, values: npt.NDArray[np.float32]) -> None:
        flat = values.reshape(-1)
        step = max(1, flat.size // _VALUES_PER_IMAGE)
        # A step without a common factor walks through all channels and columns instead of along some of them.
        while math.gcd(step, flat.size) > 1 and step < flat.size:
            step += 1
        sample = flat[::step]
        if not np.isfinite(sample).all():
            raise DataError(
                f"the output of {_module_of(node)} is not finite on a calibration image",
                fix="check the checkpoint: its weights or batch norm statistics are damaged",
            )
        # Every image counts alike: its errors are weighed against its own energy. Otherwise a few images with large
        # activations claim the range, and the rest is rounded to nothing.
        energy = float(np.mean(np.square(sample, dtype=np.float64)))
        self.histograms.setdefault(node.name, Histogram()).add(sample, 1.0 / max(energy, _LEAST_ENERGY))


def _module_of(node: fx.Node) -> str:
    """The original module that a graph node came from."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]).removeprefix("network.") if paths else node.name
