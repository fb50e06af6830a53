"""What int8 loses on x86 processors without VNNI: pairs of products that are clipped to 16 bits.

One product always fits, two of the same sign may not: 2 * 255 * 127 = 64770. With 7-bit weights they do:
2 * 255 * 63 = 32130. VNNI, ARM and kernels that widen first (XNNPACK, all of TFLite) add exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from edgetl_export.quantize.integers import GREATEST, MLAS, ONEDNN, Packing, integer_layers
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.sums_on_photos import sums_on_photos
from edgetl_export.quantize.tie_free import tie_free

__all__ = ["LayerRisk", "saturation_risk", "without_saturation"]

_SPARE = 1.15
"""Sums of other photos may be so much larger than those that were seen."""


@dataclass(frozen=True)
class LayerRisk:
    """What 16 bits may do to one layer; shares are 0 to 1.

    ``layer`` is the module's path; ``worst`` the largest magnitude that a pair of products can reach (32767 fits);
    ``can_saturate`` the share of pairs that can outgrow 16 bits and ``channels`` that of output channels with such a
    pair.
    """

    layer: str
    worst: int
    can_saturate: float
    channels: float


def saturation_risk(quantized: Quantized, *, packing: Packing = MLAS) -> list[LayerRisk]:
    """The risk of every integer layer in running order; layers of ``in_float`` have none and are left out.

    It is read off the weights and the levels that the layer's input can take. Raises `ExportError` when an input has
    no grid.
    """
    return [
        LayerRisk(
            layer=layer.name,
            worst=int(layer.worst.max()),
            can_saturate=layer.pairs_at_risk / layer.pairs,
            channels=layer.channels_at_risk / len(layer.worst),
        )
        for layer in integer_layers(quantized, packing)
    ]


def without_saturation(
    quantized: Quantized,
    images: npt.NDArray[np.uint8] | None = None,
    *,
    packings: Sequence[Packing] = (MLAS, ONEDNN),
) -> Quantized:
    """The same network with larger weight scales for the output channels in which a pair can saturate: none can then.

    Other channels keep their 8 bits, and so do depthwise convolutions where they are exact: 7-bit weights everywhere
    cost MobileNetV2 11 dB more of its logits. The scales are then no longer those of `weight_scales`.

    Args:
        quantized: The network; each of its layers' inputs has a grid.
        images: uint8 (n, H, W, C). With these, scales are as large as the sums of these images need, and `_SPARE`:
            a detector on MobileNetV2 has 87 % of its channels in which a pair can saturate, 31 % in which one did.
        packings: Of the engines that it is for.

    Raises:
        ExportError: An input has no grid.
    """
    weights = dict(quantized.quantization.weights)
    if images is not None:
        for parameter, sums in sums_on_photos(quantized, images).items():
            _enlarge(weights, parameter, _SPARE * sums.double() / GREATEST, 1.0)
        return tie_free(replace(quantized, quantization=replace(quantized.quantization, weights=weights)))
    # Half a step of the largest weight: less might round to the same integers.
    least = 1 + 0.5 / quantized.quantization.weight_levels
    while True:
        safe = replace(quantized, quantization=replace(quantized.quantization, weights=weights))
        at_risk = {
            layer.parameter: layer
            for packing in packings
            for layer in integer_layers(safe, packing)
            if layer.pairs_at_risk
        }
        if not at_risk:
            return tie_free(safe)
        for parameter, layer in at_risk.items():
            _enlarge(weights, parameter, layer.worst.double() / GREATEST, least)


def _enlarge(weights: dict[str, tuple[float, ...]], parameter: str, excess: torch.Tensor, least: float) -> None:
    """Make the scales of the channels whose sums exceed 16 bits by `excess` so much larger, and by `least` at least."""
    larger = torch.where(excess > 1, excess.clamp(min=least), 1.0)
    scales = torch.tensor(weights[parameter], dtype=torch.float64) * larger
    weights[parameter] = tuple(float(scale) for scale in scales)
