"""Which static int8 variants may saturate on processors without VNNI: what the bundle and its manifest say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgetl_export.quantize.integers import MLAS, ONEDNN
from edgetl_export.quantize.quantization import Quantization, Quantized
from edgetl_export.quantize.saturation import LayerRisk, saturation_risk
from edgetl_runtime.errors import ExportError

__all__ = ["Risks", "summary"]

_PACKINGS = {"onnx": MLAS, "openvino": ONEDNN}
"""TFLite is not among them: XNNPACK widens products before it adds them."""


@dataclass
class Risks:
    """The risk of every set of parameters in the kernels of each target, found when a file is written from it."""

    _seen: list[tuple[str, Quantization, list[LayerRisk]]] = field(default_factory=list)

    def look(self, target: str, quantized: Quantized) -> None:
        """Take down what 16 bits may do to the static int8 of `target`; about 0.1 s for MobileNetV2."""
        if target not in _PACKINGS:
            return
        try:
            found = saturation_risk(quantized, packing=_PACKINGS[target])
        except ExportError:
            # A layer whose input has no grid is computed in float: the writer says so, or refuses it.
            return
        self._seen.append((target, quantized.quantization, found))

    def of(self, quantizations: Mapping[str, Quantization]) -> dict[str, list[LayerRisk]]:
        """By variant id: the layers of its int8 file. Variants of other precisions and targets are left out."""
        return {
            variant: found
            for variant, quantization in quantizations.items()
            for target, looked_at, found in self._seen
            if variant == f"{target}.int8" and looked_at is quantization
        }


def summary(risks: Sequence[LayerRisk]) -> dict[str, Any]:
    """For the manifest: the number of ``layers`` and of ``layers_at_risk``, and the ``worst`` pair of products."""
    at_risk = [risk for risk in risks if risk.can_saturate > 0]
    return {
        "layers_at_risk": len(at_risk),
        "layers": len(risks),
        "worst": max((risk.worst for risk in risks), default=0),
    }
