"""OpenVINO, on the CPU or another of its devices."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from edgetl_runtime.engines import installed
from edgetl_runtime.engines.binding import Execution, ModelBytes, Signature, as_found, bind, cannot_load, cannot_run
from edgetl_runtime.engines.devices import ANYWHERE, unavailable
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.placement import OperatorPlace
from edgetl_runtime.session import Session, Tensors

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["OpenVinoSession", "open_session"]

_NO_OPERATORS = frozenset({"Const", "Input", "Output"})
_SINGLE = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"}
_COMBINED = ("AUTO", "HETERO", "MULTI", "BATCH")


class OpenVinoSession(Session):
    """An IR model in OpenVINO. One run at a time: an infer request has one set of buffers."""

    engine = "openvino"

    def __init__(self, compiled: Any, signature: Signature, *, where: str, places: Mapping[str, str]) -> None:
        self.engine_version = installed(self.engine) or "unknown"
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._where = where
        self._places = places
        self._compiled = compiled
        self._lock = threading.Lock()
        found = [_spec(port) for port in compiled.inputs]
        self._into = bind(self.inputs, found, what="input", where=where)
        self.inputs = as_found(self.inputs, found, self._into)
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
                raise cannot_run(self._where, error) from error
            return {
                spec.name: np.asarray(results[position])
                for spec, position in zip(self.outputs, self._out_of, strict=True)
            }

    def _operators(self) -> tuple[OperatorPlace, ...]:
        with self._lock:
            compiled = self._compiled
            # With AUTO in parentheses while it still runs on the CPU in place of the device it is preparing.
            devices = [str(device).strip("()") for device in compiled.get_property("EXECUTION_DEVICES")]
            found = []
            for node in compiled.get_runtime_model().get_ops():
                kind = str(node.rt_info["layerType"].value)
                if kind in _NO_OPERATORS:
                    continue
                originals = str(node.rt_info["originalLayersNames"].value).split(",")
                divided = (self._places[name] for name in originals if name in self._places)
                found.append(OperatorPlace(node.get_friendly_name(), kind, next(divided, ",".join(devices))))
        return tuple(found)

    def _close(self) -> None:
        # It may go in another thread than it came in, whose signal stack it would put back here.
        with self._lock, kept_signal_stack():
            self._request = None
            self._compiled = None


def open_session(model: ModelBytes, signature: Signature, execution: Execution) -> OpenVinoSession:
    """`model` on ``execution.device``, compiled for latency.

    A device is "cpu", "gpu", "npu", "auto", or OpenVINO's own: "GPU.1", "HETERO:GPU,CPU", "AUTO:NPU,CPU".
    Raises `EngineError` when OpenVINO cannot take the model, or has no such device.
    """
    where = f"{model.name} in openvino {installed('openvino')}"
    weights = openvino.Tensor(np.frombuffer(model.weights or b"", np.uint8))
    try:
        with kept_signal_stack():  # looking for devices changes it too
            core = openvino.Core()
            # Or threads of TBB are left over when the session goes, and a forked process, which has none, aborts.
            core.set_property({"FORCE_TBB_TERMINATE": True})
            device, members = _device(execution, core)
            read = core.read_model(model.main, weights)
            compiled = core.compile_model(read, device, _hints(device, members, execution))
            places = dict(core.query_model(read, device)) if device.startswith("HETERO") else {}
    except RuntimeError as error:
        raise cannot_load(where, str(error), "openvino") from error
    session = OpenVinoSession(compiled, signature, where=where, places=places)
    session.device = execution.device
    # AUTO and MULTI are free to choose; what HETERO cannot place on its first device goes to the next.
    if members and execution.kind not in ANYWHERE and not device.startswith(("AUTO", "MULTI")):
        with kept_signal_stack():
            session.wanted = tuple(found for found in core.available_devices if _is_a(found, members[0]))
    return session


def _device(execution: Execution, core: Any) -> tuple[str, tuple[str, ...]]:
    """OpenVINO's name of ``execution.device``, and the single devices it is made of (none for a bare AUTO)."""
    device = _SINGLE.get(execution.kind, execution.device.upper())
    if device == "CPU":  # looking for devices starts their drivers
        return device, (device,)
    available = core.available_devices
    known = ["cpu", "auto", *(name for name in available if name != "CPU")]
    base, _, listed = device.partition(":")
    members = tuple(listed.split(",")) if listed else () if base in _COMBINED else (device,)
    for member in members:
        if not any(_is_a(found, member.removeprefix("-")) for found in available):
            reason = f"OpenVINO finds {', '.join(available)}"
            fix = 'engine="litert"' if execution.kind == "edgetpu" else "install the driver of the device"
            raise unavailable(execution.device, "openvino", reason, known=known, fix=fix)
    return device, members


def _is_a(found: str, name: str) -> bool:
    """Whether the device `found` (GPU.0) is what `name` means (GPU, or GPU.0)."""
    return found == name or found.startswith(f"{name}.")


def _hints(device: str, members: Sequence[str], execution: Execution) -> dict[str, Any]:
    # float32 arithmetic: where a CPU has fp16 or bf16 units the default would quietly use them for fp32 files. AUTO
    # did so on a CPU with AMX: one logit differed by a tenth.
    # Not pinned: OpenVINO pins the threads of every model to the same first cores, so that two sessions or processes of
    # one thread each ran at half their speed on two cores (243 and 243 runs/s, 510 and 497 without); one alone is as
    # fast either way.
    cpu = {
        "INFERENCE_NUM_THREADS": execution.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        hints |= cpu
    elif not members or "CPU" in members:
        hints["DEVICE_PROPERTIES"] = {"CPU": cpu}
    return {**hints, **execution.options}


def _spec(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)
    names = sorted(port.get_names())
    return TensorSpec(names[0] if names else "", np.dtype(port.element_type.to_dtype()).name, shape)
