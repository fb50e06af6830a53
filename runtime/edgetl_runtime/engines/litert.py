"""LiteRT (TensorFlow Lite) on the CPU, from whichever library brings its interpreter."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.engines import ENGINES, installed
from edgetl_runtime.engines.binding import ModelBytes, Signature, bind
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import Session, Tensors

__all__ = ["LiteRtSession", "open_session"]

_INTERPRETERS = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tflite_runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow.lite",
}


class LiteRtSession(Session):
    """A TFLite model in LiteRT's interpreter. One run at a time: an interpreter has one set of buffers."""

    engine = "litert"

    def __init__(self, interpreter: Any, signature: Signature, *, model: ModelBytes, where: str) -> None:
        self.engine_version = installed(self.engine) or "unknown"
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._interpreter = interpreter
        self._model: ModelBytes | None = model  # the interpreter reads weights from these bytes, it has no copy
        self._where = where
        self._lock = threading.Lock()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        into = bind(self.inputs, [_spec(detail) for detail in inputs], what="input", where=where)
        out_of = bind(self.outputs, [_spec(detail) for detail in outputs], what="output", where=where)
        self._input_indices = [int(inputs[position]["index"]) for position in into]
        self._output_indices = [int(outputs[position]["index"]) for position in out_of]
        self._shapes = [tuple(inputs[position]["shape"]) for position in into]

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:  # closed by another thread a moment ago
                raise EngineError(f"{self._where}: the session is closed", fix="load the model again")
            tensors = [feeds[spec.name] for spec in self.inputs]
            try:
                self._resize(interpreter, tensors)
                for index, tensor in zip(self._input_indices, tensors, strict=True):
                    interpreter.set_tensor(index, tensor)
                interpreter.invoke()
                # get_tensor copies, so that results outlive the next run.
                results = [interpreter.get_tensor(index) for index in self._output_indices]
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"{self._where} failed to run: {error}") from error
        return {spec.name: np.asarray(result) for spec, result in zip(self.outputs, results, strict=True)}

    def _resize(self, interpreter: Any, tensors: list[npt.NDArray[Any]]) -> None:
        """Follow inputs with a free length; the interpreter has to be told before the tensors come."""
        shapes = [tensor.shape for tensor in tensors]
        if shapes == self._shapes:
            return
        for index, shape in zip(self._input_indices, shapes, strict=True):
            interpreter.resize_tensor_input(index, list(shape))
        interpreter.allocate_tensors()
        self._shapes = shapes

    def _close(self) -> None:
        with self._lock:
            self._interpreter = None
            self._model = None


def open_session(model: ModelBytes, signature: Signature, *, threads: int) -> LiteRtSession:
    """`model` on the CPU (XNNPACK where the library has it). Raises `EngineError` when LiteRT cannot take it."""
    library = ENGINES["litert"].library()
    if library is None:  # removed since the caller looked
        raise EngineError(f"no LiteRT library is left to load {model.name}", fix='pip install "edgetl[tflite]"')
    where = f"{model.name} in litert ({library.module} {library.version()})"
    interpreter_class = importlib.import_module(_INTERPRETERS[library.module]).Interpreter
    try:
        interpreter = interpreter_class(model_content=model.main, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        upgrade = f"pip install --upgrade {library.distributions[0]}"
        raise EngineError(f"cannot load {where}: {error}", fix=upgrade) from error
    return LiteRtSession(interpreter, signature, model=model, where=where)


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    # shape_signature has -1 where the length is free; shape is what is allocated now.
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, tuple(int(size) for size in shape))
