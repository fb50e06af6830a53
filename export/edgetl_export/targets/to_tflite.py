"""TFLite: fp32 by litert-torch, fp16 as half-precision weights and int8 by ai-edge-quantizer from the shared ranges."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_export.quantize.calibrate import Calibration
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.ranges import Range
from edgetl_export.workshop import Artifact, Workshop
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["TfliteTarget"]

FIXED_RANGES = {"LOGISTIC": Range(0.0, 1.0), "SOFTMAX": Range(0.0, 1.0)}
"""Operators whose int8 kernels fix the output scale at 1/256."""

_MOVES_VALUES = ("PAD", "RESHAPE", "TRANSPOSE")
"""Operators that hand the range of their input on: calibrated ranges contain the zero that padding adds."""


class TfliteTarget:
    """Writes ``.tflite`` files, NHWC from end to end."""

    def __init__(self) -> None:
        self._float: bytes | None = None

    def build(self, workshop: Workshop, precision: str) -> Artifact:
        """The model at `precision`."""
        if self._float is None:
            self._float = _converted(workshop)
        if precision == "fp32":
            return Artifact({".tflite": self._float})
        if precision == "fp16":
            return Artifact({".tflite": _half_weights(self._float)})
        if precision == "int8":
            return _quantized(self._float, workshop.calibration)
        raise ExportError(f"tflite cannot be written at precision {precision!r}")

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as a metadata buffer."""
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        content = artifact.files[".tflite"]
        model = tfl_flatbuffer_utils.flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
        model.metadata = [*(model.metadata or []), entry]
        model.buffers.append(schema.BufferT(np.frombuffer(manifest_json.encode(), np.uint8)))
        for buffer in model.buffers:
            # The quantiser may leave weights behind the flatbuffer, by offset; inside it, older runtimes find them too.
            if buffer.offset > 1:
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        return Artifact({".tflite": _packed(model)}, artifact.quantization)


def _packed(model: Any) -> bytes:
    """The flatbuffer of a schema object.

    Weights are aligned as the schema asks (force_align: 16), which the generated Python code forgets. Equal vectors are
    stored once: the zero points of per-channel weights, all zero, are a tenth of an int8 MobileNetV2.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc] # flatbuffers ships no types
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802 - overrides
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == np.uint8:
                    self.Prep(16, x.nbytes)
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    builder = Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _converted(workshop: Workshop) -> bytes:
    import litert_torch

    captured = workshop.captured
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


def _quantized(model: bytes, calibration: Calibration) -> Artifact:
    """Static int8 with the shared ranges; what has no calibrated range, and the normalisation, stays in float."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    graph = _Graph(model, calibration.probe)
    ranges = graph.ranges(calibration)
    static = quantizer.Quantizer(model)
    static.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        static.update_quantization_recipe(".*", border, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    left: dict[str, int] = {}
    for kind, scope in graph.float_operators(ranges):
        left[kind] = left.get(kind, 0) + 1
        static.update_quantization_recipe(
            f"^{re.escape(scope)}$",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    statistics = {
        name: {"min": np.array([[found.low]], np.float32), "max": np.array([[found.high]], np.float32)}
        for name, found in ranges.items()
    }
    result = static.quantize(statistics, enable_progress_report=False).quantized_model
    summary = calibration.summary() | {"activations": "int8 per tensor", "float_operators": left}
    return Artifact({".tflite": bytes(result)}, summary)


@dataclass(frozen=True)
class _Operator:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Graph:
    """The float model's operators and the values of its activations for one image."""

    def __init__(self, model: bytes, probe: npt.NDArray[np.uint8]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=model,
            # Without the delegate, which hides the tensors inside what it fuses.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        image = interpreter.get_input_details()[0]
        interpreter.set_tensor(image["index"], probe)
        interpreter.invoke()
        self.image: str = image["name"]
        details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
        self.operators = [
            _Operator(
                operator["op_name"],
                tuple(details[index]["name"] for index in operator["inputs"] if index >= 0),
                tuple(details[index]["name"] for index in operator["outputs"]),
            )
            for operator in interpreter._get_ops_details()
        ]
        made = {name for operator in self.operators for name in operator.outputs}
        self.values: dict[str, npt.NDArray[np.float32]] = {
            tensor["name"]: interpreter.get_tensor(index)
            for index, tensor in details.items()
            if tensor["name"] in made and tensor["dtype"] is np.float32
        }

    def ranges(self, calibration: Calibration) -> dict[str, Range]:
        """The shared range of every activation that has one."""
        matched = match_by_value(calibration.values, self.values)
        ranges = {name: calibration.ranges[original] for name, original in matched.items()}
        for operator in self.operators:
            output = operator.outputs[0]
            if operator.kind in FIXED_RANGES:
                ranges[output] = FIXED_RANGES[operator.kind]
            elif operator.kind in _MOVES_VALUES and operator.inputs[0] in ranges:
                ranges.setdefault(output, ranges[operator.inputs[0]])
        return ranges

    def float_operators(self, ranges: dict[str, Range]) -> list[tuple[str, str]]:
        """Kind and scope (as ai-edge-quantizer spells it) of the operators that stay in float."""
        reached = {self.image}
        found: list[tuple[str, str]] = []
        for operator in self.operators:
            normalises = operator.kind in ("CAST", "MUL", "ADD") and any(name in reached for name in operator.inputs)
            if normalises:
                reached.update(operator.outputs)
            activations = [name for name in (*operator.inputs, *operator.outputs) if name in self.values]
            if normalises or any(name not in ranges for name in activations):
                found.append((operator.kind, ";".join(operator.outputs) + ";"))
        return found
