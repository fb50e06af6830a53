"""The file of a variant, run by its engine with the outputs of its layers on view.

ONNX Runtime and OpenVINO run what they run on the device: asking for a layer's rounded output leaves their fusions as
they are. LiteRT shows inner tensors only without its XNNPACK delegate, whose rounding may differ by a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgetl.verify.layers.file_weights import (
    FileWeights,
    port_name,
    weights_in_onnx,
    weights_in_openvino,
    weights_in_tflite,
)
from edgetl.verify.layers.operators import Operator, Point, points
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.engines import Execution, ModelBytes, Signature, installed, missing, open_session
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.errors import EngineError, MissingDependency
from edgetl_runtime.manifest import TensorSpec

__all__ = ["Probe", "open_probe"]

Floats = npt.NDArray[np.float32]


class Probe(Protocol):
    """A variant whose inner tensors can be read. ``file_weights`` has those of layers by the ``maker`` of a point."""

    points: list[Point]
    file_weights: dict[str, FileWeights]

    def run(self, image: npt.NDArray[np.uint8]) -> list[Floats]:
        """Values of all `points` for one image (1, H, W, C), dequantised, in the layout of the file. Where that takes a
        fixed number of images they are all this one, and the values those of the first.

        Raises `EngineError` when the engine fails.
        """
        ...


def open_probe(engine: str, model: ModelBytes, image: TensorSpec, *, threads: int) -> Probe:
    """Open `model` in `engine`, one of the table `edgetl_runtime.engines.ENGINES`; `image` is its input.

    Raises `MissingDependency` or `EngineError`.
    """
    if engine not in _OPENERS:
        raise EngineError(f"{model.name}: the layers of engine {engine} cannot be read")
    if installed(engine) is None:
        raise missing(engine)
    probe = _OPENERS[engine](model, image, threads)
    return probe if image.shape[0] in (FREE, 1) else _OfMany(probe, image.shape[0])


class _OfMany:
    """A probe of a file that takes `batch` images in one run."""

    def __init__(self, probe: Probe, batch: int) -> None:
        self.points, self.file_weights = probe.points, probe.file_weights
        self._probe, self._batch = probe, batch

    def run(self, image: npt.NDArray[np.uint8]) -> list[Floats]:
        values = self._probe.run(np.repeat(image, self._batch, axis=0))
        return [array[: len(array) // self._batch] if array.ndim else array for array in values]


class _OnnxProbe:
    def __init__(self, model: ModelBytes, image: TensorSpec, threads: int) -> None:
        try:
            import onnx
        except ImportError:
            raise MissingDependency("onnx", needed_for="SQNR by layer of ONNX files", extra="export") from None
        loaded = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(model.main))
        graph = loaded.graph
        known = {value.name: value for value in (*graph.value_info, *graph.output)}
        operators = [Operator(node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node]
        self.points = [point for point in points(operators, image.name) if point.tensor in known]
        listed = {value.name for value in graph.output}
        graph.output.extend(known[point.tensor] for point in self.points if point.tensor not in listed)
        outputs = tuple(
            TensorSpec(
                point.tensor,
                str(onnx.helper.tensor_dtype_to_np_dtype(known[point.tensor].type.tensor_type.elem_type)),
                tuple(size.dim_value or -1 for size in known[point.tensor].type.tensor_type.shape.dim),
            )
            for point in self.points
        )
        constants = {tensor.name: tensor for tensor in graph.initializer}
        self._grids = {
            node.output[0]: tuple(onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            for node in graph.node
            if node.op_type == "QuantizeLinear" and all(name in constants for name in node.input[1:3])
        }
        self.file_weights = weights_in_onnx(graph)
        self._image = image.name
        shown = ModelBytes(loaded.SerializeToString(), name=model.name)
        self._session = open_session("onnxruntime", shown, Signature((image,), outputs), Execution(threads=threads))

    def run(self, image: npt.NDArray[np.uint8]) -> list[Floats]:
        values = self._session.run({self._image: image})
        return [self._floats(point.tensor, values[point.tensor]) for point in self.points]

    def _floats(self, name: str, values: npt.NDArray[Any]) -> Floats:
        return _dequantized(values, *self._grids[name]) if name in self._grids else values.astype(np.float32)


class _TfliteProbe:
    def __init__(self, model: ModelBytes, image: TensorSpec, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise MissingDependency("ai-edge-litert", needed_for="SQNR by layer", extra="tflite") from None
        self._model, self._where = model, model.name  # the interpreter reads weights from these bytes
        try:
            with warnings.catch_warnings(action="ignore"):  # that this is for debugging: it is what we do
                self._interpreter = Interpreter(
                    model_content=model.main,
                    num_threads=threads,
                    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"cannot load {model.name} in litert: {error}") from error
        self._details = {str(detail["index"]): detail for detail in self._interpreter.get_tensor_details()}
        operators = [
            Operator(
                operator["op_name"],
                tuple(str(index) for index in operator["inputs"] if index >= 0),
                tuple(str(index) for index in operator["outputs"]),
            )
            for operator in self._interpreter._get_ops_details()
        ]
        self._image = int(self._interpreter.get_input_details()[0]["index"])
        # Tensors go by index here: their names need not differ.
        self._listed = points(operators, str(self._image))
        self.points = [Point(self._details[point.tensor]["name"], point.kind, point.maker) for point in self._listed]
        self.file_weights = weights_in_tflite(self._interpreter)

    def run(self, image: npt.NDArray[np.uint8]) -> list[Floats]:
        try:
            if self._details[str(self._image)]["dtype"] is np.int8:
                # Grey levels less 128, as `edgetl_runtime.session.IntegerSession` feeds them.
                image = np.bitwise_xor(image, np.uint8(128)).view(np.int8)
            self._interpreter.set_tensor(self._image, image)
            self._interpreter.invoke()
            return [self._floats(self._details[point.tensor]) for point in self._listed]
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self._where} failed to run in litert: {error}") from error

    def _floats(self, detail: dict[str, Any]) -> Floats:
        values = self._interpreter.get_tensor(detail["index"])
        scale, zero_point = detail["quantization"]
        return _dequantized(values, np.float32(scale), zero_point) if scale else values.astype(np.float32)


class _OpenvinoProbe:
    def __init__(self, model: ModelBytes, image: TensorSpec, threads: int) -> None:
        import openvino

        self._where = model.name
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            core = openvino.Core()
            loaded = core.read_model(model.main, openvino.Tensor(np.frombuffer(model.weights or b"", np.uint8)))
            ordered = loaded.get_ordered_ops()
            operators = [
                Operator(
                    node.get_type_name(),
                    tuple(port_name(source) for source in node.input_values()),
                    tuple(port_name(output) for output in node.outputs()),
                )
                for node in ordered
                if node.get_type_name() != "Result"
            ]
            self.points = points(operators, port_name(loaded.inputs[0]))
            self.file_weights = weights_in_openvino(ordered)
            ports = {port_name(output): output for node in ordered for output in node.outputs()}
            listed = {port_name(result.input_value(0)) for result in loaded.get_results()}
            loaded.add_outputs([ports[point.tensor] for point in self.points if point.tensor not in listed])
            places = {port_name(result.input_value(0)): place for place, result in enumerate(loaded.get_results())}
            self._places = [places[point.tensor] for point in self.points]
            with kept_signal_stack():
                self._request = core.compile_model(loaded, "CPU", hints).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"cannot load {model.name} in openvino: {error}") from error

    def run(self, image: npt.NDArray[np.uint8]) -> list[Floats]:
        try:
            self._request.infer([image])
            return [np.array(self._request.get_output_tensor(place).data, np.float32) for place in self._places]
        except RuntimeError as error:
            raise EngineError(f"{self._where} failed to run in openvino: {error}") from error


_OPENERS: dict[str, Callable[[ModelBytes, TensorSpec, int], Probe]] = {
    "onnxruntime": _OnnxProbe,
    "litert": _TfliteProbe,
    "openvino": _OpenvinoProbe,
}


def _dequantized(values: npt.NDArray[Any], scale: Any, zero_point: Any) -> Floats:
    floats: Floats = (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return floats
