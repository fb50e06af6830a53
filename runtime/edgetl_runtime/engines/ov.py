"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from edgetl_runtime.engines import installed
from edgetl_runtime.engines.binding import ModelBytes, Signature, bind
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import Session, Tensors

__all__ = ["OpenVinoSession", "open_session"]


class OpenVinoSession(Session):
    """An IR model in OpenVINO. One run at a time: an infer request has one set of buffers."""

    engine = "openvino"

    def __init__(self, compiled: Any, signature: Signature, *, where: str) -> None:
        self.engine_version = installed(self.engine) or "unknown"
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._where = where
        self._lock = threading.Lock()
        self._into = bind(self.inputs, [_spec(port) for port in compiled.inputs], what="input", where=where)
        self._out_of = bind(self.outputs, [_spec(port) for port in compiled.outputs], what="output", where=where)
        self._request = compiled.create_infer_request()

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        with self._lock:
            request = self._request
            if request is None:  # closed by another thread a moment ago
                raise EngineError(f"{self._where}: the session is closed", fix="load the model again")
            tensors = {
                position: np.ascontiguousarray(feeds[spec.name])
                for position, spec in zip(self._into, self.inputs, strict=True)
            }
            try:
                # Results are copies (share_outputs is off), so that they outlive the next run.
                results = request.infer(tensors, share_inputs=True, share_outputs=False)
            except RuntimeError as error:
                raise EngineError(f"{self._where} failed to run: {error}") from error
            return {
                spec.name: np.asarray(results[position])
                for spec, position in zip(self.outputs, self._out_of, strict=True)
            }

    def _close(self) -> None:
        with self._lock:
            self._request = None


def open_session(model: ModelBytes, signature: Signature, *, threads: int) -> OpenVinoSession:
    """`model` on the CPU, compiled for latency. Raises `EngineError` when OpenVINO cannot take it."""
    where = f"{model.name} in openvino {installed('openvino')}"
    # float32 arithmetic: where a CPU has fp16 or bf16 units the default would quietly use them for fp32 files.
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    weights = openvino.Tensor(np.frombuffer(model.weights or b"", np.uint8))
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.main, weights), "CPU", hints)
    except RuntimeError as error:
        raise EngineError(f"cannot load {where}: {error}", fix="pip install --upgrade openvino") from error
    return OpenVinoSession(compiled, signature, where=where)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)
    names = sorted(port.get_names())
    return TensorSpec(names[0] if names else "", np.dtype(port.element_type.to_dtype()).name, shape)
