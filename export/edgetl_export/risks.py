"""Which static int8 variants may saturate on processors without VNNI: what the bundle and its manifest say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    """Remembers the models that int8 files are written from, to say what 16 bits may do to those that are kept."""

    _seen: list[tuple[str, Quantized]] = field(default_factory=list)

    def remember(self, target: str, quantized: Quantized) -> None:
        """Note that a static int8 file of `target` is written from `quantized`."""
        if target in _PACKINGS:
            self._seen.append((target, replace(quantized, values={})))

    def of(self, quantizations: Mapping[str, Quantization]) -> dict[str, list[LayerRisk]]:
        """By variant id: the layers of its int8 file. Variants of other precisions and targets are left out.

        Half a second for a variant of MobileNetV2 on one core, and once a second more to trace its graph.
        """
        found: dict[str, list[LayerRisk]] = {}
        for variant, quantization in quantizations.items():
            for target, quantized in self._seen:
                if variant == f"{target}.int8" and quantized.quantization is quantization:
                    # A layer whose input has no grid is computed in float: there is nothing to say of that file.
                    with suppress(ExportError):
                        found[variant] = saturation_risk(quantized, packing=_PACKINGS[target])
        return found


def summary(risks: Sequence[LayerRisk]) -> dict[str, Any]:
    """For the manifest: the number of ``layers`` and of ``layers_at_risk``, and the ``worst`` pair of products."""
    at_risk = [risk for risk in risks if risk.can_saturate > 0]
    return {
        "layers_at_risk": len(at_risk),
        "layers": len(risks),
        "worst": max((risk.worst for risk in risks), default=0),
    }
