"""One pass of real images through the original model: the ranges that all targets are quantised with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured, by_image
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.layers import module_of, output_layers
from edgetl_export.quantize.ranges import Histogram, Range
from edgetl_runtime.errors import DataError

__all__ = ["METHODS", "Calibration", "calibrate", "node_values"]

METHODS = ("mse", "percentile", "minmax")
"""Ways from a histogram to a range; the first is the default."""

_BATCH = 8
_VALUES_PER_IMAGE = 16384
"""Of a larger tensor, every k-th value is counted."""

_LEAST_ENERGY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """Activation ranges by method and graph node, and what they were measured on.

    ``probe`` (1, H, W, C) uint8 is the last of the ``n`` images; ``fingerprint`` is a SHA-256 over all of them.
    """

    ranges: Mapping[str, Mapping[str, Range]]
    probe: npt.NDArray[np.uint8]
    n: int
    fingerprint: str


def calibrate(captured: Captured, samples: CalibrationSamples, *, track: Track = silent) -> Calibration:
    """Stream `samples` through the captured module once; memory does not grow with their number.

    Raises `DataError` when an activation is not finite or the images are all the same.
    """
    recorder = _Recorder(captured.batched)
    distinct = set[int]()
    probe = np.zeros(captured.single.input.shape, np.uint8)
    tracked = track(samples, what="calibrate", total=len(samples))
    with torch.inference_mode():
        for images in _batches(tracked):
            if len(distinct) < 2:
                distinct.update(hash(image.tobytes()) for image in images)
            recorder.run(torch.from_numpy(images))
            probe = images[-1:]
    if len(distinct) < 2:
        raise DataError("all calibration images are the same", fix="calibrate on photos like those of the device")
    histograms = recorder.histograms
    ranges = {
        "mse": {name: histogram.mse_range() for name, histogram in histograms.items()},
        "percentile": {name: histogram.percentile_range() for name, histogram in histograms.items()},
        "minmax": {name: histogram.full_range() for name, histogram in histograms.items()},
    }
    for found in ranges.values():
        # The largest logit decides: it is never clipped. An output in integers is no activation, and has no range.
        found |= {name: histograms[name].full_range() for name in recorder.outputs if name in histograms}
    return Calibration(ranges, probe, len(samples), samples.fingerprint)


def node_values(captured: Captured, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Every float node's output for one image (1, H, W, C)."""
    recorder = _Recorder(captured.outputs_alone.single.program.module(), keep=True)
    with torch.inference_mode():
        recorder.run(torch.from_numpy(image))
    return recorder.kept


def _batches(images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    waiting: list[npt.NDArray[np.uint8]] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == _BATCH:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


class _Recorder(fx.Interpreter):
    """Runs the graph node by node and counts, or keeps, the values of every float output."""

    def __init__(self, graph_module: torch.nn.Module, *, keep: bool = False) -> None:
        assert isinstance(graph_module, fx.GraphModule)
        super().__init__(graph_module)
        self.histograms: dict[str, Histogram] = {}
        self.kept: dict[str, npt.NDArray[np.float32]] = {}
        given = [node.name for node in graph_module.graph.output_node().all_input_nodes]
        self.outputs = {*given, *output_layers(graph_module.graph)}
        self._keep = keep
        self._images = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "placeholder":
            self._images = len(result)
        if n.op == "call_function" and isinstance(result, torch.Tensor) and result.is_floating_point():
            # numpy() is a view, and an in-place activation may overwrite it: count, or copy, at once.
            if self._keep:
                self.kept[n.name] = result.numpy().copy()
            else:
                self._count(n, result)
        return result

    def _count(self, node: fx.Node, values: torch.Tensor) -> None:
        flat = by_image(node, values, self._images).numpy()
        step = max(1, flat.shape[1] // _VALUES_PER_IMAGE)
        # A step without a common factor walks through all channels and columns instead of along some of them.
        while math.gcd(step, flat.shape[1]) > 1 and step < flat.shape[1]:
            step += 1
        sample = np.ascontiguousarray(flat[:, ::step])
        energies = np.einsum("nk,nk->n", sample, sample, dtype=np.float64) / sample.shape[1]
        if not np.isfinite(energies).all():
            raise DataError(
                f"the output of {module_of(node)} is not finite on a calibration image",
                fix="check the checkpoint: its weights or batch norm statistics are damaged",
            )
        # Every image counts alike: its errors are weighed against its own energy. Otherwise a few images with large
        # activations claim the range, and the rest is rounded to nothing.
        weights = 1.0 / np.maximum(energies, _LEAST_ENERGY)
        self.histograms.setdefault(node.name, Histogram()).add(sample, np.repeat(weights, sample.shape[1]))
