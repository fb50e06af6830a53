"""TFLite: fp32 by litert-torch, smaller weights and integers by ai-edge-quantizer, these from the shared ranges."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.quantize.pixels import with_borders_for
from edgetl_export.quantize.quantization import PIXELS, Quantized
from edgetl_export.sealing import with_room_for_seal
from edgetl_export.targets import tflite_flatbuffer
from edgetl_export.targets.int16_activations import with_live_channels
from edgetl_export.targets.summaries import weight_summary
from edgetl_export.targets.tflite_int8 import quantize_tflite
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["TfliteTarget"]


class TfliteTarget:
    """Writes ``.tflite`` files, NHWC from end to end."""

    def __init__(self) -> None:
        self._converted: dict[Captured, bytes] = {}

    def write(self, captured: Captured, precision: str) -> Artifact:
        """fp32, fp16 as half-precision weights, w8 and dynamic as int8 weights."""
        model = self._float(captured)
        if precision == "fp32":
            return _artifact(model, captured)
        if precision == "fp16":
            return _artifact(_half_weights(model), captured)
        if precision in ("w8", "dynamic"):
            content = _integer_weights(model, dynamic=precision == "dynamic")
            return _artifact(content, captured, weight_summary(precision, "int8, but for depthwise convolutions"))
        raise ExportError(f"tflite cannot be written at precision {precision!r}")

    def quantize(self, quantized: Quantized, precision: str = "int8", *, io: str = "float") -> Artifact:
        """int8, or w8a16 with int16 activations, as TFLite's integer kernels have it; with `io` int8 in and out."""
        if precision not in ("int8", "w8a16") or io not in ("float", "int8") or (precision, io) == ("w8a16", "int8"):
            raise ExportError(f"tflite cannot be written at precision {precision!r} with {io} borders")
        captured = quantized.captured if precision == "int8" else with_live_channels(quantized)
        if io == "int8" and not captured.takes_pixels:
            raise ExportError(
                f"{captured.source.name} does not begin with a convolution: its normalisation is float arithmetic",
                fix="leave --io int8 out",
            )
        bits = 8 if precision == "int8" else 16
        written = quantize_tflite(self._float(captured), quantized, activation_bits=bits, integer_borders=io == "int8")
        summary = {
            **quantized.quantization.summary(),
            "activations": f"int{bits}",
            "float_operators": written.float_operators,
        }
        if written.logits is None:
            return _artifact(written.content, captured, summary)
        # What counts from 0 to 255 in a grid counts from -128 to 127 in the file.
        image = replace(captured.input, dtype="int8", scale=PIXELS.scale, zero_point=PIXELS.zero_point - 128)
        grid = written.logits
        logits = replace(captured.output, dtype="int8", scale=grid.scale, zero_point=grid.zero_point - 128)
        return replace(_artifact(written.content, captured, summary), input=image, output=logits)

    def _float(self, captured: Captured) -> bytes:
        if captured not in self._converted:
            self._converted[captured] = _exported(captured)
        return self._converted[captured]

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as a metadata buffer, sealed."""
        from ai_edge_litert import schema_py_generated as schema

        model = tflite_flatbuffer.opened(artifact.files[".tflite"])
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
        kept = [item for item in model.metadata or () if item.name not in (METADATA_KEY, METADATA_KEY.encode())]
        model.metadata = [*kept, entry]
        model.buffers.append(schema.BufferT(np.frombuffer(with_room_for_seal(manifest_json).encode(), np.uint8)))
        return replace(artifact, files={".tflite": tflite_flatbuffer.packed(model)}).sealed()


def _artifact(content: bytes, captured: Captured, quantization: dict[str, object] | None = None) -> Artifact:
    """The file, whose ends have the manifest's names still, or again where integers replaced one."""
    model = tflite_flatbuffer.opened(content)
    if _name_ends(model, captured):
        content = tflite_flatbuffer.packed(model)
    return Artifact({".tflite": content}, quantization)


def _name_ends(model: Any, captured: Captured) -> bool:
    return tflite_flatbuffer.name_ends(model, [captured.input.name], [spec.name for spec in captured.all_outputs])


def _exported(captured: Captured) -> bytes:
    """The file that all others are made from; its ends have the names that the manifest has for them."""
    import litert_torch

    model = litert_torch.convert(with_borders_for(captured.module, captured.batch), (captured.example,))
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "model.tflite"
        model.export(str(path))
        content = path.read_bytes()
    opened = tflite_flatbuffer.opened(content)
    tflite_flatbuffer.flatten_biases(opened)
    _name_ends(opened, captured)
    return tflite_flatbuffer.packed(opened)


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


def _integer_weights(model: bytes, *, dynamic: bool) -> bytes:
    """Weights int8 symmetric per output channel with a dequantise behind them.

    With `dynamic`, dense convolutions round their activations as they come and multiply integers. Depthwise ones do
    not, their kernels for that are three times slower than float32; nor do matrix products, whose dynamic kernel in
    tflite-runtime 2.14 passes over the scales per channel.
    """
    from ai_edge_quantizer import qtyping, quantizer

    names = qtyping.TFLOperationName
    rounding = quantizer.Quantizer(model)
    rounding.add_weight_only_config(".*", names.ALL_SUPPORTED, num_bits=8)
    if dynamic:
        rounding.add_dynamic_config(".*", names.CONV_2D, num_bits=8)
    return bytes(rounding.quantize(enable_progress_report=False).quantized_model)
