"""Causes that show in the layers: values that end where the original's go on, channels that died, coarse weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgetl.verify.layers.layer_error import find_suspects
from edgetl.verify.report import Finding, LayerError
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import BundleError
from edgetl_runtime.machine import cpu_features

if TYPE_CHECKING:
    from edgetl.verify.report import VariantReport
    from edgetl_export import Captured, Source

__all__ = ["explain_by_facts", "explain_by_first_layer", "explain_by_layers", "explain_non_finite"]

_CLIPPED = 0.02
"""Of a layer's values. Grids of least squared error clip 0.0002 in a sound MobileNetV2."""
_NARROWER = 0.8
_BARELY_USED = 0.4
_LEAST_OF_SWISH = -0.5
_ABOUT = 1.05
_LARGEST_FP16 = 65504.0
_CLEAR_FALL_DB = 15.0
_LOST_DB = 3.0
_QUANTIZATION = "quantization.json"
_HARD_IN_INTEGERS = {
    "SiLU": "SiLU in integers: its small negative values share a grid with large positive ones",
    "Hardswish": "hard swish in integers: its small negative values share a grid with large positive ones",
    "Sigmoid": "the gate of a squeeze-excite block in integers: it multiplies every channel by a rounded value",
    "Hardsigmoid": "the gate of a squeeze-excite block in integers: it multiplies every channel by a rounded value",
}
_FLOATS = ("fp32", "fp16")


def explain_non_finite(logits: npt.NDArray[np.float32], layers: Sequence[LayerError]) -> tuple[Finding, ...]:
    """Where NaN or infinity come from: float16 that overflows, weights that are not finite, or the engine."""
    images = int(np.count_nonzero(~np.isfinite(logits).all(axis=1)))
    said = f"the logits of {images} of {len(logits)} images are not finite"
    first = next((layer for layer in layers if layer.non_finite > 0), None)
    if first is None:
        seen = f"; all {len(layers)} layers of the same file are, when they are watched" if layers else ""
        return (
            Finding(
                "the engine answers with NaN or infinity",
                said + seen,
                "install another version of the engine, or take another target: edgetl-run self-test shows which work",
            ),
        )
    if first.weights is not None and "not finite" in first.weights:
        evidence = f"{said}; the stored weights of {first.module} are not"
        return (Finding("weights in the file are NaN or infinite", evidence, "export the variant again"),)
    # What overflows may be seen only behind the next layer.
    so_far = list(layers)[: list(layers).index(first) + 1]
    loudest = max(so_far, key=_reach)
    evidence = f"{said}; {first.module} is the first such layer, the original reaches {_reach(loudest):.4g} in "
    evidence += "it" if loudest is first else loudest.module
    if _reach(loudest) > _LARGEST_FP16:
        return (
            Finding(
                "float16 overflows",
                f"{evidence}, float16 ends at {_LARGEST_FP16:.0f}",
                "compute that layer in float32 (edgetl's own fp16 files store weights only), or use fp32 or int8",
            ),
        )
    return (Finding(f"{first.module} gives NaN or infinity", evidence, "export the variant again"),)


def explain_by_layers(
    report: VariantReport, layers: Sequence[LayerError], bundle: Bundle, original: Source | Captured | None
) -> tuple[Finding, ...]:
    """What is wrong by the looks of the layers, in running order; empty when nothing stands out."""
    if not layers:
        return ()
    quantised = report.precision not in _FLOATS
    causes = explain_by_facts(layers)
    if quantised:
        grids, at_risk = _recorded(bundle, report.id)
        if (bundle.manifest.variant(report.id).quantization or {}).get("int8_safe"):
            at_risk = {}  # its weights are made for such a processor
        saturated = _saturated(layers, grids, _calibration(bundle, report.id)) or _outgrown(layers, at_risk)
        causes += () if saturated is None else (saturated,)
    if not causes and quantised and original is not None:
        hard = _hard_in_integers(layers, original)
        causes = () if hard is None else (hard,)
    return causes


def explain_by_facts(layers: Sequence[LayerError]) -> tuple[Finding, ...]:
    """What is wrong whatever it costs: weights of one scale or of 4 bits, channels that died."""
    found = (_coarse(layers), _few_bits(layers), _dead(layers))
    return tuple(finding for finding in found if finding is not None)


def _coarse(layers: Sequence[LayerError]) -> Finding | None:
    weighted = [layer for layer in layers if layer.weights is not None]
    coarse = [layer for layer in weighted if "per tensor" in str(layer.weights)]
    if not coarse:
        return None
    worst = max(coarse, key=lambda layer: layer.drop_db)
    return Finding(
        "weights have one scale per tensor",
        f"{len(coarse)} of {len(weighted)} layers share one scale for all output channels; {worst.module} loses "
        f"{worst.drop_db:.0f} dB",
        "export int8 with edgetl export, which has a scale per output channel; elsewhere ask for per_channel=True",
    )


def _few_bits(layers: Sequence[LayerError]) -> Finding | None:
    few = [layer for layer in layers if layer.weights is not None and "4 bits" in layer.weights]
    if not few:
        return None
    shown = ", ".join(f"{layer.module} (-{layer.drop_db:.0f} dB)" for layer in few[:3])
    return Finding(
        "weights of a layer have 4 bits",
        f"{len(few)} layers use 16 values or fewer: {shown}",
        "export the variant again at int8: 4 bits need training, edgetl export --quantize distill",
    )


def _saturated(
    layers: Sequence[LayerError], grids: Mapping[str, tuple[float, float]], calibration: str
) -> Finding | None:
    """Narrow ranges in the file, or a calibration that does not cover these images, or covers far more."""
    clipped = [layer for layer in layers if layer.clipped > _CLIPPED and not _only_small_negatives(layer)]
    before = list(layers[: list(layers).index(clipped[0])]) if clipped else []
    # What is clipped behind a layer that goes wrong is its consequence.
    if clipped and not find_suspects(before):
        first = clipped[0]
        evidence = (
            f"{first.clipped:.1%} of the values of {first.module} stop at {_ends(first.range)} where the original's "
            f"reach {_ends(first.original_range)}, and so in {len(clipped)} of {len(layers)} layers"
        )
        known = [layer for layer in clipped if layer.node in grids]
        narrow = [layer for layer in known if _stops_before(layer, grids[layer.node])]
        if known and len(narrow) <= len(known) / 2:
            return _stale(evidence, calibration)
        calibrated = f"; the calibration found {_ends(grids[narrow[0].node])} for {narrow[0].module}" if narrow else ""
        return Finding(
            "ranges are too narrow: activations saturate",
            evidence + calibrated,
            "export int8 again; ranges that cover more: edgetl export --ranges minmax, and photos like the device's",
        )
    used = {
        layer.node: _span(layer.original_range) / _span(grids[layer.node])
        for layer in layers
        if layer.node in grids and _span(grids[layer.node]) > 0
    }
    if not used or float(np.median(list(used.values()))) >= _BARELY_USED:
        return None
    wide = min((layer for layer in layers if layer.node in used), key=lambda layer: used[layer.node])
    evidence = (
        f"these images use {np.median(list(used.values())):.0%} of the calibrated ranges (median of {len(used)} "
        f"layers); {wide.module} spans {_ends(wide.original_range)} of {_ends(grids[wide.node])}"
    )
    return _stale(evidence, calibration)


def _outgrown(layers: Sequence[LayerError], at_risk: Mapping[str, float]) -> Finding | None:
    """Sums that do not fit 16 bits, on a processor that adds in so many: `edgetl_export.quantize.saturation`."""
    first = next(iter(find_suspects(layers)), None)
    if first is None or not at_risk.get(first.module) or not cpu_features().adds_in_16_bits:
        return None
    return Finding(
        "sums outgrow 16 bits: this processor has no VNNI",
        f"{first.module} loses {first.drop_db:.0f} dB, and {at_risk[first.module]:.0%} of its pairs of products can be "
        f"too large for 16 bits, as in {sum(share > 0 for share in at_risk.values())} of {len(at_risk)} layers",
        "for devices like this one: edgetl export --int8-safe; TFLite, ARM and x86 with VNNI add exactly",
    )


def _only_small_negatives(layer: LayerError) -> bool:
    """Whether all that is clipped is what SiLU and hard swish have below zero: that is rounding, no range."""
    least, greatest = layer.original_range
    return layer.range[0] == 0 and _LEAST_OF_SWISH <= least < 0 and greatest <= layer.range[1] * _ABOUT


def _stops_before(layer: LayerError, grid: tuple[float, float]) -> bool:
    """Whether the end at which a variant's values are clipped comes well before the calibrated one."""
    low_gap, high_gap = layer.range[0] - layer.original_range[0], layer.original_range[1] - layer.range[1]
    end = 1 if high_gap >= low_gap else 0
    return abs(layer.range[end]) < _NARROWER * abs(grid[end])


def _stale(evidence: str, calibration: str) -> Finding:
    return Finding(
        "the calibration is of another domain: its ranges do not fit these images",
        f"{evidence}; {calibration}",
        "calibrate on photos like the device's: edgetl export --calibration DIR",
    )


def _dead(layers: Sequence[LayerError]) -> Finding | None:
    first = next((layer for layer in layers if layer.dead_channels and layer.drop_db >= _LOST_DB), None)
    if first is None:
        return None
    shown = ", ".join(str(channel) for channel in first.dead_channels[:5])
    return Finding(
        "channels of a layer are zeroed",
        f"{len(first.dead_channels)} output channels of {first.module} ({shown}) are constant in the variant and vary "
        f"in the original; the layer loses {first.drop_db:.0f} dB",
        "export the variant again: weights of that layer were lost",
    )


def _hard_in_integers(layers: Sequence[LayerError], original: Source | Captured) -> Finding | None:
    suspects = find_suspects(layers)
    from edgetl_export import Captured

    source = original.source if isinstance(original, Captured) else original
    modules = dict(source.module.named_modules())
    for layer in suspects[:1]:
        kind = type(modules.get(layer.module)).__name__
        if kind in _HARD_IN_INTEGERS:
            option = "--no-se" if "sigmoid" in kind.lower() else "--activation hardswish (or relu6)"
            return Finding(
                _HARD_IN_INTEGERS[kind],
                f"{layer.module} ({kind}) spans {_ends(layer.original_range)} and loses {layer.drop_db:.0f} dB",
                f"edgetl export {option}, or --max-drop 0.01, which leaves such layers in float or trains them",
            )
    return None


def explain_by_first_layer(layers: Sequence[LayerError]) -> tuple[Finding, ...]:
    """Where a variant goes wrong, when nothing says why."""
    suspects = [layer for layer in find_suspects(layers) if layer.drop_db >= _CLEAR_FALL_DB]
    if not suspects:
        return ()
    first = suspects[0]
    return (
        Finding(
            f"{first.module} computes something else",
            f"its output is {first.sqnr_db:.0f} dB near the original's, {first.drop_db:.0f} dB less than its inputs",
            "export the variant again; the layers around it: edgetl inspect BUNDLE --layers",
        ),
    )


def _recorded(bundle: Bundle, variant_id: str) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Of what the bundle keeps of a quantisation, empty when it keeps none: least and greatest value of the calibrated
    grid by graph node, and by layer the share of pairs of products that can outgrow 16 bits."""
    grids: dict[str, tuple[float, float]] = {}
    at_risk: dict[str, float] = {}
    try:
        for entry in json.loads(bundle.read(_QUANTIZATION))["quantizations"]:
            if variant_id in entry["variants"]:
                for node, grid in entry["activations"].items():
                    scale, zero = grid["scale"], grid["zero_point"]
                    grids[node] = (-zero * scale, (255 - zero) * scale)
                risks = (entry.get("saturation") or {}).get(variant_id, ())
                at_risk |= {risk["layer"]: float(risk["can_saturate"]) for risk in risks}
    except (BundleError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}, {}
    return grids, at_risk


def _calibration(bundle: Bundle, variant_id: str) -> str:
    about = (bundle.manifest.variant(variant_id).quantization or {}).get("calibration")
    if not isinstance(about, dict):
        return "the manifest does not say what it was calibrated on"
    return f"calibrated on {about.get('n')} images, fingerprint {str(about.get('fingerprint'))[:12]}"


def _reach(layer: LayerError) -> float:
    return max(abs(end) for end in layer.original_range)


def _span(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"
