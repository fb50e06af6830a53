"""TFLite: fp32 by litert-torch, fp16 as half-precision weights and int8 by ai-edge-quantizer from the shared ranges."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.targets import flatbuffer
from edgetl_export.targets.integers import quantize_tflite
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["TfliteTarget"]


class TfliteTarget:
    """Writes ``.tflite`` files, NHWC from end to end."""

    def __init__(self) -> None:
        self._converted: dict[Captured, bytes] = {}

    def write(self, captured: Captured, precision: str) -> Artifact:
        """fp32, or fp16 as half-precision weights."""
        model = self._float(captured)
        if precision == "fp32":
            return Artifact({".tflite": model})
        if precision == "fp16":
            return Artifact({".tflite": _half_weights(model)})
        raise ExportError(f"tflite cannot be written at precision {precision!r}")

    def quantize(self, quantized: Quantized) -> Artifact:
        """int8 as TFLite's integer kernels have it."""
        model, left = quantize_tflite(self._float(quantized.captured), quantized)
        summary = quantized.quantization.summary()
        return Artifact({".tflite": model}, {**summary, "activations": "int8", "float_operators": left})

    def _float(self, captured: Captured) -> bytes:
        if captured not in self._converted:
            self._converted[captured] = _exported(captured)
        return self._converted[captured]

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as a metadata buffer."""
        from ai_edge_litert import schema_py_generated as schema

        model = flatbuffer.opened(artifact.files[".tflite"])
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
        model.metadata = [*(model.metadata or []), entry]
        model.buffers.append(schema.BufferT(np.frombuffer(manifest_json.encode(), np.uint8)))
        return Artifact({".tflite": flatbuffer.packed(model)}, artifact.quantization)


def _exported(captured: Captured) -> bytes:
    import litert_torch

    model = litert_torch.convert(captured.module, (captured.example,))
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "model.tflite"
        model.export(str(path))
        return path.read_bytes()


def _half_weights(model: bytes) -> bytes:
    """Dense weights as float16 with a dequantise behind them, depthwise kernels as they are (see `to_onnx`)."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    casting = quantizer.Quantizer(model)
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    names, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    casting.update_quantization_recipe(".*", names.ALL_SUPPORTED, half, algorithms.FLOAT_CASTING)
    casting.update_quantization_recipe(".*", names.DEPTHWISE_CONV_2D, algorithm_key=algorithms.NO_QUANTIZE)
    return bytes(casting.quantize(enable_progress_report=False).quantized_model)
