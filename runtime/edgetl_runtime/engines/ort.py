"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from edgetl_runtime.engines.binding import ModelBytes, Signature, bind
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import Session, Tensors

__all__ = ["OnnxRuntimeSession", "open_session"]

_ERRORS_ONLY = 3
# ONNX Runtime's errors share no base class: each status code has an exception of its own.
_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


class OnnxRuntimeSession(Session):
    """An ONNX model in ONNX Runtime. Threads may run it at the same time: ONNX Runtime allows it."""

    engine = "onnxruntime"
    engine_version = str(onnxruntime.__version__)

    def __init__(self, session: Any, signature: Signature, *, where: str) -> None:
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._session = session
        self._where = where
        found_inputs, found_outputs = _specs(session.get_inputs()), _specs(session.get_outputs())
        into = bind(self.inputs, found_inputs, what="input", where=where)
        out_of = bind(self.outputs, found_outputs, what="output", where=where)
        self._input_names = [found_inputs[position].name for position in into]
        self._output_names = [found_outputs[position].name for position in out_of]

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        session = self._session
        if session is None:  # closed by another thread a moment ago
            raise EngineError(f"{self._where}: the session is closed", fix="load the model again")
        tensors = {name: feeds[spec.name] for name, spec in zip(self._input_names, self.inputs, strict=True)}
        try:
            results = session.run(self._output_names, tensors)
        except _FAILURES as error:
            raise EngineError(f"{self._where} failed to run: {error}") from error
        return {spec.name: np.asarray(result) for spec, result in zip(self.outputs, results, strict=True)}

    def _close(self) -> None:
        self._session = None


def open_session(model: ModelBytes, signature: Signature, *, threads: int) -> OnnxRuntimeSession:
    """`model` on the CPU provider. Raises `EngineError` when ONNX Runtime cannot take it."""
    where = f"{model.name} in onnxruntime {onnxruntime.__version__}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads sleep instead of spinning. Spinning burns cores that the application, or another engine, needs:
    # MobileNetV2 on 2 threads of a busy 2-core machine took 28 ms and, at a frame each 50 ms, 51 ms of CPU time per
    # run with it, 12 ms and 13 ms without; on 1 thread there was no difference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model.main, options, providers=["CPUExecutionProvider"])
    except _FAILURES as error:
        raise EngineError(f"cannot load {where}: {error}", fix="pip install --upgrade onnxruntime") from error
    return OnnxRuntimeSession(session, signature, where=where)


def _specs(arguments: list[Any]) -> list[TensorSpec]:
    return [
        TensorSpec(
            name=argument.name,
            dtype=_DTYPES.get(argument.type, argument.type),
            # A free length is a name or None.
            shape=tuple(size if isinstance(size, int) else -1 for size in argument.shape),
        )
        for argument in arguments
    ]
