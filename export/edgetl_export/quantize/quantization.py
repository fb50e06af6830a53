"""The parameters of one quantised model: a grid for every activation, scales for every weight, for all targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgetl_export.capture import Captured
from edgetl_export.quantize.ranges import Range

__all__ = [
    "PIXELS",
    "PROBABILITIES",
    "Grid",
    "Quantization",
    "Quantized",
    "bias_integers",
    "weight_integers",
    "weight_scales",
]


_DEAD = 1e-12
"""Nothing but zero, as far as a calibration can tell (`Histogram`)."""


@dataclass(frozen=True)
class Grid:
    """The 256 values of an activation: ``(level - zero_point) * scale`` for the levels 0 to 255.

    Engines that count from -128 to 127 subtract 128 from levels and zero point: the values are the same.
    """

    scale: float
    zero_point: int

    @classmethod
    def over(cls, found: Range) -> Grid:
        """The grid that covers `found`, moved so that zero is one of its values. Any will do for nothing but zero."""
        width = found.high - found.low
        # How wide it must be beside what comes in is up to `tie_free`, which sees the whole graph.
        scale = float(np.float32((width if width > _DEAD else 1.0) / 255))
        return cls(scale, int(np.clip(round(-found.low / scale), 0, 255)))

    @property
    def low(self) -> float:
        """The least value."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The greatest value."""
        return (255 - self.zero_point) * self.scale

    def clips_like(self, bottom: float, top: float) -> bool:
        """Whether rounding to it does what an activation does that clips at `bottom` and `top`."""
        half = self.scale / 2
        return abs(self.low - bottom) < half and self.high < top + half


PIXELS = Grid(1.0, 0)
"""Grey levels as they are."""

PROBABILITIES = Grid(1 / 256, 0)
"""What TFLite's integer kernels fix for a sigmoid or a softmax; the others can have it too."""


@dataclass(frozen=True)
class Quantization:
    """What int8 means for one network, in terms of the nodes and parameters of its captured graph.

    ``activations``: the grid of every float node; each engine applies those of the tensors that it rounds.
    ``weights``: for each parameter with int8 values, its scale per output channel (its first axis); the values are
    symmetric, -``weight_levels`` to ``weight_levels``. ``in_float``: nodes whose operators are not quantised.
    ``rung`` says how it came about, ``calibration`` on what: number of images ``n`` and their ``fingerprint``.
    """

    activations: dict[str, Grid]
    weights: dict[str, tuple[float, ...]]
    rung: str
    calibration: dict[str, Any]
    weight_levels: int = 127
    in_float: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """What the manifest says of an int8 variant."""
        bits = int(self.weight_levels).bit_length() + 1
        return {
            "method": self.rung,
            "weights": f"int{bits} symmetric per output channel",
            "calibration": self.calibration,
        }


@dataclass(frozen=True)
class Quantized:
    """A quantised model before it is written in any format: the network whose weights are rounded, and the grids.

    ``captured`` is what is converted; its parameters may differ from the original's, when they were repaired or
    trained. ``probe`` (1, H, W, C) uint8 is an image and ``values`` every node's float output for it: a target finds
    its own tensors among them by value, whatever its converter named, transposed or fused.
    """

    captured: Captured
    quantization: Quantization
    probe: npt.NDArray[np.uint8]
    values: dict[str, npt.NDArray[np.float32]]

    def on_rung(self, rung: str, **facts: Any) -> Quantized:
        """The same, with how it came about."""
        calibration = {**self.quantization.calibration, **facts}
        quantization = dataclasses.replace(self.quantization, rung=rung, calibration=calibration)
        return dataclasses.replace(self, quantization=quantization)

    @property
    def fed(self) -> npt.NDArray[np.uint8]:
        """``probe`` as a file takes it: as often as it takes images at once."""
        return np.repeat(self.probe, max(1, self.captured.batch), axis=0)

    def of_one(self, values: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
        """What a file computed of `fed`, for the first of those images: all it has of the batch comes first."""
        times = max(1, self.captured.batch)
        return {name: array[: len(array) // times] if array.ndim else array for name, array in values.items()}

    def channel_scales(self, weights: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
        """Scales of a target's constant `weights`, whose output channels are on `axis`.

        The parameter is the one whose channels have the same largest magnitudes, which no transpose changes.
        """
        others = tuple(other for other in range(weights.ndim) if other != axis)
        largest = np.abs(weights).max(axis=others)
        for name, scales in self.quantization.weights.items():
            if len(scales) == len(largest) and np.allclose(self._largest[name], largest, rtol=1e-5, atol=0.0):
                return np.array(scales, np.float32)
        scale: npt.NDArray[np.float32] = np.maximum(largest, 1e-12) / np.float32(self.quantization.weight_levels)
        return scale

    def integers(
        self, weights: npt.NDArray[np.float32], axis: int
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """A target's constant `weights` as integers of the same shape, and their scales (one per channel of `axis`)."""
        scales = self.channel_scales(weights, axis)
        return weight_integers(weights, scales, axis, self.quantization.weight_levels), scales

    @cached_property
    def _largest(self) -> dict[str, npt.NDArray[np.float32]]:
        parameters = {name: self.captured.module.get_parameter(name).detach() for name in self.quantization.weights}
        return {name: value.abs().flatten(1).amax(1).numpy() for name, value in parameters.items()}

    def grids(self, found: dict[str, str]) -> dict[str, Grid]:
        """The grids of a target's tensors, given the node of each."""
        activations = self.quantization.activations
        return {name: activations[node] for name, node in found.items() if node in activations}


def weight_integers(
    weights: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int, levels: int
) -> npt.NDArray[np.int8]:
    """`weights` as multiples of the scale of their channel on `axis`, -`levels` to `levels`."""
    shape = [-1 if other == axis else 1 for other in range(weights.ndim)]
    return np.clip(np.round(weights / scales.reshape(shape)), -levels, levels).astype(np.int8)


def bias_integers(
    bias: npt.NDArray[np.float32], source: Grid, scales: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """A layer's `bias` as integers, and their scales: that of the layer's input times those of its weights."""
    steps = (np.float32(source.scale) * scales).astype(np.float32)
    limits = np.iinfo(np.int32)
    return np.clip(np.round(bias.astype(np.float64) / steps), limits.min, limits.max).astype(np.int32), steps


def weight_scales(weights: torch.Tensor, levels: int) -> torch.Tensor:
    """Scale per output channel (first axis), float32 (channels,): the largest magnitude falls on `levels`."""
    largest = weights.detach().abs().amax(dim=tuple(range(1, weights.ndim)))
    return largest.clamp(min=1e-12) / levels
