"""The least version of every engine library that runs a variant: found by trying, written into the variant."""

from __future__ import annotations

from collections.abc import Mapping

from edgetl_export.targets import TARGETS
from edgetl_runtime.engines import ENGINES
from edgetl_runtime.manifest import Requires

__all__ = ["LEAST", "LEAST_OF_OPSET", "requires"]

# Found by tests/matrix/engine_versions.py, 2026-11-22, Python 3.11 on x86-64 with VNNI: the larger of what MobileNetV2
# (ImageNet) and EfficientNet-B0 (flowers) need, int8 also with --int8-safe and, for tflite, --io int8; for onnx and
# openvino also small networks with max-pooling, hardswish and attention (not as int8), whose operators those two lack.
_ONNX = {"onnxruntime": "1.18.0"}
# ai-edge-litert 1.1.0 does not start, and in 1.1.1, 1.1.2 and 1.3.0 the logits of fp16 are not finite.
_TFLITE = {"ai_edge_litert": "1.1.1", "tflite_runtime": "2.14.0"}
_TFLITE_FP16 = {**_TFLITE, "ai_edge_litert": "1.4.0"}
# Max-pooling needs 2024.0.0; without it attention needs 2023.3.0, everything else 2023.1.0.
_OPENVINO = {"openvino": "2024.0.0"}

LEAST_OF_OPSET: Mapping[tuple[int, str], Mapping[str, str]] = {
    **{(opset, name): {"onnxruntime": "1.15.1"} for opset in range(13, 19) for name in ("fp32", "fp16", "int8", "w8")},
    **{(opset, name): {"onnxruntime": "1.15.0"} for opset in (13, 15, 17) for name in ("fp32", "int8", "w8")},
}
"""By opset and precision, for older opsets that were tried. 1.15.0, the oldest for Python 3.11, on a small network of
convolutions, ReLU6, sums and a pool; 1.15.1 and 1.17.3 on MobileNetV2 and EfficientNet-B0, with opset 13 to 20: 1.15.1
loads none of 19 and 20. For all else the table below holds."""

LEAST: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("onnx", "fp32"): _ONNX,
    ("onnx", "fp16"): _ONNX,
    ("onnx", "int8"): _ONNX,
    ("onnx", "w8"): _ONNX,
    ("onnx", "dynamic"): _ONNX,
    ("tflite", "fp32"): _TFLITE,
    ("tflite", "fp16"): _TFLITE_FP16,
    ("tflite", "int8"): _TFLITE,
    ("tflite", "w8"): _TFLITE,
    ("tflite", "dynamic"): _TFLITE,
    ("tflite", "w8a16"): _TFLITE,
    ("openvino", "fp32"): _OPENVINO,
    ("openvino", "fp16"): _OPENVINO,
    ("openvino", "int8"): _OPENVINO,
    ("openvino", "w8"): _OPENVINO,
    ("openvino", "dynamic"): _OPENVINO,
}
"""By target and precision: module of a library -> the oldest tried version that passed, as all newer tried ones did."""


def requires(target: str, precision: str, *, opset: int | None = None) -> Requires:
    """What a variant of `target` at `precision` needs; no versions where none was tried.

    `opset` is that of ONNX files which are older than what is written by default.
    """
    engine = ENGINES[TARGETS[target].engine]
    least = LEAST.get((target, precision), {})
    if target == "onnx" and opset is not None:
        least = LEAST_OF_OPSET.get((opset, precision), least)
    return Requires(engine.name, least.get(engine.libraries[0].module), dict(least))
