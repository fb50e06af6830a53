"""Whether the calibration can be trusted: what is told of too few images, of another domain, of ranges left behind."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from edgetl_export.capture import Captured, by_image
from edgetl_export.quantize.calibrate import METHODS, Calibration
from edgetl_export.quantize.layers import module_of
from edgetl_export.quantize.quantization import Grid
from edgetl_export.source import Source
from edgetl_runtime.errors import UsageError, nearest

__all__ = [
    "CERTAIN",
    "MOST_DIVERGENCE",
    "MOST_OUTSIDE",
    "Coverage",
    "calibration_warnings",
    "coverage",
    "divergence",
]

CERTAIN = 50
"""With fewer images, five to ten times as many values of other photos are outside the ranges: 1e-5 for 16 photos,
2e-6 for 100 (MobileNetV2 on ImageNet photos; the SQNR of the logits is the same within 0.3 dB)."""

MOST_OUTSIDE = 1.5e-4
"""A larger share of values outside the min-max ranges is a warning. With 48 photos, others of their kind give 1e-6 to
6e-6 (MobileNetV2, ImageNet) and 5e-8 to 6e-5 (EfficientNet-B0, flowers); after a calibration on digits it is 4e-4 and
4e-3 to 9e-3, after one on noise 2e-4 to 6e-4 and 3e-2 to 5e-2."""

MOST_DIVERGENCE = 0.3
"""A larger `divergence` is a warning. 16 photos give 0.01 to 0.09 (MobileNetV2: ImageNet, flowers, without colour, a
quarter as bright) and 0.14 to 0.25 (EfficientNet-B0 of flowers: flowers); ImageNet gives the latter 0.39; digits 0.39
and 0.60, noise 0.61 to 1.08, plain grey 0.60 and 2.3. Distances of the means alone do not tell noise from flowers."""

_BATCH = 8


@dataclass(frozen=True)
class Coverage:
    """How much of what other images give is outside of what was calibrated; shares are 0 to 1.

    Of every image the mean over tensors, of these the median over images, so that one odd photo is no verdict:
    ``outside_range`` beyond the least and greatest value of the calibration, ``outside_grid`` beyond the grid that was
    chosen, where values are clipped. ``worst`` is the module with the largest share beyond the range,
    ``worst_share`` (the median over images).
    """

    outside_range: float
    outside_grid: float
    worst: str
    worst_share: float
    n: int


def coverage(
    captured: Captured, calibration: Calibration, images: npt.NDArray[np.uint8], method: str = METHODS[0]
) -> Coverage:
    """Run `images` (n, H, W, C) through the network that was calibrated; some 60 ms an image for MobileNetV2.

    `method` names the ranges that the grids were made of. Raises `UsageError` when it is unknown.
    """
    if method not in calibration.ranges:
        raise UsageError(f"unknown way to find ranges {method!r}", fix=nearest(method, METHODS))
    counter = _Outside(captured.batched, calibration, method)
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            counter.run(torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])))
    beyond = {name: np.concatenate(shares) for name, shares in counter.range.items()}
    clipped = np.stack([np.concatenate(shares) for shares in counter.grid.values()])
    typical = {name: float(np.median(shares)) for name, shares in beyond.items()}
    worst = max(typical, key=lambda name: typical[name])
    return Coverage(
        outside_range=float(np.median(np.stack(list(beyond.values())).mean(0))),
        outside_grid=float(np.median(clipped.mean(0))),
        worst=counter.modules[worst],
        worst_share=typical[worst],
        n=len(images),
    )


def divergence(source: Source, images: npt.NDArray[np.uint8]) -> float | None:
    """How far `images` (n, H, W, C) are from what the batch norms of the network were trained on; None without any.

    By channel the Kullback-Leibler divergence of the normal distribution with the batch's mean and variance from that
    with the running ones, ``(v / V + (m - M)^2 / V - 1 - ln(v / V)) / 2``; the mean over channels, the median over
    layers. Needs no data but the network's own; blind where a head was trained on frozen statistics of other data.
    """
    found: list[float] = []

    def compare(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if module.running_mean is None or module.running_var is None:
            return
        variance, mean = torch.var_mean(inputs[0].double(), dim=(0, 2, 3), correction=0)
        expected = module.running_var.double() + module.eps
        ratio = (variance / expected).clamp(min=1e-9)
        distance = (mean - module.running_mean.double()).square() / expected
        found.append(float((ratio + distance - 1 - ratio.log()).mean() / 2))

    network = copy.deepcopy(source.module).cpu().float().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    mean, std = torch.tensor(source.normalize.mean), torch.tensor(source.normalize.std)
    with torch.inference_mode():
        network(((torch.from_numpy(images).float() / 255.0 - mean) / std).permute(0, 3, 1, 2))
    return float(np.median(found)) if found else None


def calibration_warnings(
    source: Source, calibration: Calibration, photos: npt.NDArray[np.uint8], others: Coverage | None
) -> tuple[str, ...]:
    """What a person should know of the calibration before trusting int8, with the numbers; empty when all is well.

    `photos` (n, H, W, C) are some of those calibrated on, `others` is how images that int8 will meet are covered.
    """
    said: list[str] = []
    if calibration.n < CERTAIN:
        said.append(f"{calibration.n} calibration images leave the ranges uncertain: 100 to 300 are usual")
    distance = divergence(source, photos)
    if distance is not None and distance > MOST_DIVERGENCE:
        said.append(
            f"the calibration images are unlike what the network was trained on: its batch norms diverge by "
            f"{distance:.2f}, photos of its domain stay below {MOST_DIVERGENCE:g} - calibrate on photos like those of "
            "the device (right all the same where only the head was trained on such photos)"
        )
    if others is not None and others.outside_range > MOST_OUTSIDE:
        said.append(
            f"the calibration does not cover other images: {others.outside_range:.2%} of their values are outside the "
            f"calibrated ranges (most in {others.worst}, {others.worst_share:.1%}), {MOST_OUTSIDE:.2%} is the limit - "
            "calibrate on photos like those of the device"
        )
    return tuple(said)


class _Outside(fx.Interpreter):
    """By node and image, the shares of values outside the ranges and outside the grids."""

    def __init__(self, graph_module: fx.GraphModule, calibration: Calibration, method: str) -> None:
        super().__init__(graph_module)
        self.range: dict[str, list[npt.NDArray[np.float32]]] = {}
        self.grid: dict[str, list[npt.NDArray[np.float32]]] = {}
        self.modules: dict[str, str] = {}
        self._images = 0
        self._ranges = calibration.ranges["minmax"]
        self._grids = {name: Grid.over(found) for name, found in calibration.ranges[method].items()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "placeholder":
            self._images = len(result)
        if n.name in self._ranges:
            found, grid = self._ranges[n.name], self._grids[n.name]
            values, half = by_image(n, result, self._images), grid.scale / 2
            self.modules[n.name] = module_of(n) or n.name
            self.range.setdefault(n.name, []).append(_share_outside(values, found.low, found.high))
            self.grid.setdefault(n.name, []).append(_share_outside(values, grid.low - half, grid.high + half))
        return result


def _share_outside(values: torch.Tensor, low: float, high: float) -> npt.NDArray[np.float32]:
    shares: npt.NDArray[np.float32] = ((values < low) | (values > high)).float().mean(1).numpy()
    return shares
