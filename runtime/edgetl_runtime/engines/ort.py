"""ONNX Runtime, on the CPU or through another of its execution providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from edgetl_runtime.engines.binding import (
    Execution,
    ModelBytes,
    ModelPath,
    Signature,
    as_found,
    bind,
    cannot_load,
    cannot_run,
)
from edgetl_runtime.engines.devices import ANYWHERE
from edgetl_runtime.engines.providers import CPU, Provider, not_started, short_name, wanted_providers
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.placement import OperatorPlace
from edgetl_runtime.session import Session, Tensors

if TYPE_CHECKING:
    import numpy.typing as npt

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
# From 1.24 on a session tells which provider has which node; before that only a profile of a run does.
_TELLS_ASSIGNMENT = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
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
    concurrent = True

    def __init__(
        self,
        session: Any,
        signature: Signature,
        *,
        where: str,
        profiled: tuple[OperatorPlace, ...] | None = None,
    ) -> None:
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._session = session
        self._where = where
        self._profiled = profiled
        found_inputs, found_outputs = _specs(session.get_inputs()), _specs(session.get_outputs())
        into = bind(self.inputs, found_inputs, what="input", where=where)
        self.inputs = as_found(self.inputs, found_inputs, into)
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
            raise cannot_run(self._where, error) from error
        return {spec.name: np.asarray(result) for spec, result in zip(self.outputs, results, strict=True)}

    def _operators(self) -> tuple[OperatorPlace, ...]:
        if self._profiled is not None:
            return self._profiled
        if not _TELLS_ASSIGNMENT:
            raise EngineError(
                f"onnxruntime {self.engine_version} cannot tell where operators run",
                fix='pip install "onnxruntime>=1.24"',
            )
        return tuple(
            OperatorPlace(node.name, node.op_type, short_name(part.ep_name))
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )

    def _close(self) -> None:
        self._session = None


def open_session(model: ModelBytes | ModelPath, signature: Signature, execution: Execution) -> OnnxRuntimeSession:
    """`model` on the provider of ``execution.device``, the CPU behind it.

    Raises `EngineError` when ONNX Runtime cannot take it, or the provider is not there or does not start.
    """
    providers = wanted_providers(execution, onnxruntime.get_available_providers())
    for provider in providers:
        opened = _open(model, signature, execution, provider)
        if opened is not None:
            return opened
    raise not_started(execution, providers)


def _open(
    model: ModelBytes | ModelPath, signature: Signature, execution: Execution, provider: Provider
) -> OnnxRuntimeSession | None:
    """A session on `provider`; None when that does not start."""
    where = f"{model.name} in onnxruntime {onnxruntime.__version__}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads sleep instead of spinning. Spinning burns cores that the application, or another engine, needs:
    # MobileNetV2 on 2 threads of a busy 2-core machine took 28 ms and, at a frame each 50 ms, 51 ms of CPU time per
    # run with it, 12 ms and 13 ms without; on 1 thread there was no difference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Bytes may also be in ONNX Runtime's own format, which nothing has checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if provider.name == "DmlExecutionProvider":
        options.enable_mem_pattern = False  # DirectML refuses to start with it
    profiled = None
    try:
        if execution.kind in ANYWHERE or _TELLS_ASSIGNMENT:
            session = _start(model, options, provider)
        else:
            session, profiled = _profile(model, options, provider)
        opened = OnnxRuntimeSession(session, signature, where=where, profiled=profiled)
    except _NotStartedError:
        return None
    except _FAILURES as error:
        reason = str(error).replace(model.path, model.name) if isinstance(model, ModelPath) else str(error)
        raise cannot_load(where, reason, "onnxruntime") from error
    opened.device = execution.device
    opened.wanted = () if execution.kind in ANYWHERE else (short_name(provider.name),)
    return opened


class _NotStartedError(Exception):
    """ONNX Runtime left the provider out, which it would only log."""


def _start(model: ModelBytes | ModelPath, options: Any, provider: Provider) -> Any:
    names, settings = [provider.name], [dict(provider.options)]
    if provider.name != CPU:
        names, settings = [*names, CPU], [*settings, {}]
    source = model.path if isinstance(model, ModelPath) else model.main
    session = onnxruntime.InferenceSession(source, options, providers=names, provider_options=settings)
    if provider.name not in session.get_providers():
        raise _NotStartedError
    return session


def _profile(model: ModelBytes | ModelPath, options: Any, provider: Provider) -> tuple[Any, tuple[OperatorPlace, ...]]:
    """A session, and where its operators ran in a first run on zeros."""
    # Here: they take 7 ms to import, and only old versions need them.
    import json
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = _start(model, options, provider)
        feeds = {
            spec.name: np.zeros([max(size, 1) for size in spec.shape], spec.dtype)
            for spec in _specs(session.get_inputs())
        }
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event["args"] | {"event": event["name"]} for event in events if event.get("cat") == "Node"]
    ran = [node for node in nodes if node["event"].endswith("_kernel_time")]
    return session, tuple(
        OperatorPlace(node["event"].removesuffix("_kernel_time"), node["op_name"], short_name(node["provider"]))
        for node in ran
    )


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
