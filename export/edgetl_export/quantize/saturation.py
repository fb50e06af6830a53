"""What int8 loses on x86 processors without VNNI: pairs of products that are clipped to 16 bits.

One product always fits, two of the same sign may not: 2 * 255 * 127 = 64770. With 7-bit weights they do:
2 * 255 * 63 = 32130. VNNI, ARM and kernels that widen first (XNNPACK, all of TFLite) add exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl_export.capture import by_name
from edgetl_export.quantize.integers import GREATEST, MLAS, IntegerLayer, Packing, integer_layers
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.tie_free import tie_free
from edgetl_runtime.errors import DataError

__all__ = ["LayerRisk", "emulate_saturating", "saturation_risk", "without_saturation"]

_BATCH = 4
_POSITIONS = 8
"""Of an output's rows, and of its columns, at most twice as many are sampled."""


@dataclass(frozen=True)
class LayerRisk:
    """What 16 bits may do to one layer; shares are 0 to 1.

    ``layer`` is the module's path; ``worst`` the largest magnitude that a pair of products can reach (32767 fits);
    ``can_saturate`` the share of pairs that can outgrow 16 bits and ``channels`` that of output channels with such a
    pair; ``does_saturate`` the share of sampled outputs in which a pair did on the given images, if any were given.
    """

    layer: str
    worst: int
    can_saturate: float
    channels: float
    does_saturate: float | None = None


def saturation_risk(
    quantized: Quantized, images: npt.NDArray[np.uint8] | None = None, *, packing: Packing = MLAS
) -> list[LayerRisk]:
    """The risk of every integer layer in running order; layers of ``in_float`` have none and are left out.

    Without `images` it is read off the weights and the levels that the layer's input can take. With `images`
    (n, H, W, C) uint8 the exact quantised network runs on them, and a grid of up to 16 by 16 positions of every output
    channel is inspected.

    Raises `DataError` for images of another shape or type, `ExportError` when an input has no grid.
    """
    found = integer_layers(quantized, packing)
    counting = _Counting(quantized, found)
    if images is not None:
        with torch.inference_mode():
            for batch in _batches(quantized, images):
                counting.run(batch)
    return [
        LayerRisk(
            layer=layer.name,
            worst=int(layer.worst.max()),
            can_saturate=sum(len(group.outputs) for group in layer.groups) / layer.pairs,
            channels=len({int(channel) for group in layer.groups for channel in group.outputs}) / len(layer.weights),
            does_saturate=counting.share(node) if images is not None else None,
        )
        for node, layer in found.items()
    ]


def emulate_saturating(
    quantized: Quantized, images: npt.NDArray[np.uint8], *, packing: Packing = MLAS
) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs by name for uint8 `images` (n, H, W, C), as a processor without VNNI computes them.

    `Simulation` with integer layers: sums are exact but for the pairs that saturate, biases are rounded to int32 at
    the scale of the products, and whatever reaches a layer is on a grid, the image's normalised values too. Padding
    counts as the zero point, as in MLAS; oneDNN pads with nothing and may clip otherwise along the border.

    The exact part costs what the float network does; the lost part costs the share of pairs that can saturate, times
    some ten operations each: about 0.3 s on one core for an image of 224 px in MobileNetV2, where that share is 3 %.

    Raises `DataError` for images of another shape or type, `ExportError` when an input has no grid.
    """
    names = quantized.captured.source.outputs
    saturating = _Saturating(quantized, integer_layers(quantized, packing))
    with torch.inference_mode():
        runs = [by_name(saturating.run(batch), names) for batch in _batches(quantized, images)]
    return {name: np.concatenate([run[name].numpy() for run in runs]).astype(np.float32) for name in names}


def without_saturation(quantized: Quantized, *, packing: Packing = MLAS) -> Quantized:
    """The same network with larger weight scales for the output channels in which a pair can saturate: none can then.

    Other channels keep their 8 bits, and so do depthwise convolutions where they are exact: 7-bit weights everywhere
    cost MobileNetV2 11 dB more of its logits. The scales are then no longer those of `weight_scales`.

    Raises `ExportError` when an input has no grid.
    """
    weights = dict(quantized.quantization.weights)
    # Half a step of the largest weight: less might round to the same integers.
    least = 1 + 0.5 / quantized.quantization.weight_levels
    while True:
        safe = replace(quantized, quantization=replace(quantized.quantization, weights=weights))
        at_risk = [layer for layer in integer_layers(safe, packing).values() if layer.groups]
        if not at_risk:
            return tie_free(safe)
        for layer in at_risk:
            excess = layer.worst.double() / GREATEST
            larger = torch.where(excess > 1, excess.clamp(min=least), 1.0)
            scales = torch.tensor(weights[layer.parameter], dtype=torch.float64) * larger
            weights[layer.parameter] = tuple(float(scale) for scale in scales)


class _Integers(fx.Interpreter):
    """The quantised graph with integer layers, whose sums are exact."""

    def __init__(self, quantized: Quantized, found: Mapping[str, IntegerLayer]) -> None:
        simulation = Simulation(quantized.captured, quantized.quantization)
        super().__init__(simulation.module)
        self._grids, self._found = simulation.grids, found

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._found:
            (values, *_), _ = self.fetch_args_kwargs_from_env(n)
            result = self._multiply(n.name, values)
        else:
            result = super().run_node(n)
        grid = self._grids.get(n.name)
        return result if grid is None else torch.fake_quantize_per_tensor_affine(result, grid[0], grid[1], 0, 255)

    def _multiply(self, node: str, values: torch.Tensor) -> torch.Tensor:
        """The layer's output (n, outputs, rows, columns) or (..., outputs), float32, before it is rounded."""
        layer = self._found[node]
        levels = torch.round(values / layer.grid.scale) + layer.grid.zero_point
        levels = levels.clamp(0, 255).to(torch.int32)
        if layer.is_matrix:
            levels = levels.reshape(-1, values.shape[-1], 1, 1)
        sums = self._sums(node, levels)
        if layer.bias is not None:
            sums = sums + layer.bias[:, None, None]
        result = (sums * layer.scales[:, None, None]).float()
        return result.reshape(*values.shape[:-1], -1) if layer.is_matrix else result

    def _sums(self, node: str, levels: torch.Tensor) -> torch.Tensor:
        return self._found[node].exact(levels)


class _Saturating(_Integers):
    """Subtracts from the exact sums what is clipped."""

    def _sums(self, node: str, levels: torch.Tensor) -> torch.Tensor:
        sums = super()._sums(node, levels)
        for outputs, lost in self._found[node].lost(levels):
            sums.index_add_(1, outputs, lost.double(), alpha=-1)
        return sums


class _Counting(_Integers):
    """Exact sums; counts the sampled outputs in which a pair would be clipped."""

    def __init__(self, quantized: Quantized, found: Mapping[str, IntegerLayer]) -> None:
        super().__init__(quantized, found)
        self._clipped = dict.fromkeys(found, 0)
        self._sampled = dict.fromkeys(found, 0)

    def share(self, node: str) -> float:
        """Of the layer's sampled outputs, those in which at least one pair was clipped."""
        return self._clipped[node] / self._sampled[node]

    def _sums(self, node: str, levels: torch.Tensor) -> torch.Tensor:
        sums = super()._sums(node, levels)
        step = max(1, min(sums.shape[2:]) // _POSITIONS)
        clipped = torch.zeros_like(sums[:, :, ::step, ::step], dtype=torch.int32)
        for outputs, lost in self._found[node].lost(levels, step):
            clipped.index_add_(1, outputs, (lost != 0).int())
        self._clipped[node] += int((clipped > 0).sum())
        self._sampled[node] += clipped.numel()
        return sums


def _batches(quantized: Quantized, images: npt.NDArray[np.uint8]) -> Iterator[torch.Tensor]:
    """A few images at a time, once they are known to be what the network takes."""
    expected = quantized.captured.input.shape[1:]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or not len(images):
        raise DataError(
            f"the network takes uint8 images {('n', *expected)}, not {images.dtype} {images.shape}",
            fix="preprocess them with edgetl_runtime.preprocess and stack them",
        )
    for start in range(0, len(images), _BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
