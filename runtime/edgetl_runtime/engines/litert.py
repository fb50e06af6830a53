"""LiteRT (TensorFlow Lite), from whichever library brings its interpreter: on the CPU or through a delegate."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.engines import ENGINES, import_for, installed
from edgetl_runtime.engines.binding import Execution, ModelBytes, Signature, as_found, bind, cannot_load, cannot_run
from edgetl_runtime.engines.delegates import BUILTIN, Delegation, delegation, load_library
from edgetl_runtime.errors import EngineError, pip_install
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.placement import OperatorPlace
from edgetl_runtime.session import Session, Tensors

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["LiteRtSession", "open_session"]

_INTERPRETERS = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tflite_runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow.lite",
}
# Members of OpResolverType: XNNPACK is on with the first, off with the second.
_AUTO, _WITHOUT_DEFAULT_DELEGATES = "AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
_DELEGATE = "DELEGATE"


class LiteRtSession(Session):
    """A TFLite model in LiteRT's interpreter. One run at a time: an interpreter has one set of buffers."""

    engine = "litert"

    def __init__(
        self, interpreter: Any, signature: Signature, *, model: ModelBytes, delegated: Delegation, where: str
    ) -> None:
        self.engine_version = installed(self.engine) or "unknown"
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._interpreter = interpreter
        self._model: ModelBytes | None = model  # the interpreter reads weights from these bytes, it has no copy
        self._where = where
        self._delegated = delegated
        self.wanted = delegated.wanted
        self._lock = threading.Lock()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        found = [_spec(detail) for detail in inputs]
        into = bind(self.inputs, found, what="input", where=where)
        self.inputs = as_found(self.inputs, found, into)
        out_of = bind(self.outputs, [_spec(detail) for detail in outputs], what="output", where=where)
        self._input_indices = [int(inputs[position]["index"]) for position in into]
        self._output_indices = [int(outputs[position]["index"]) for position in out_of]
        self._shapes = [tuple(int(size) for size in inputs[position]["shape"]) for position in into]

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
                raise cannot_run(self._where, error) from error
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

    def _operators(self) -> tuple[OperatorPlace, ...]:
        with self._lock:
            details = self._interpreter._get_ops_details()
            names = {detail["index"]: detail["name"] for detail in self._interpreter.get_tensor_details()}
        inside = _delegated(details)
        # An operator of a TFLite file has no name: its result has.
        return tuple(
            OperatorPlace(
                names.get(int(detail["outputs"][0]), ""),
                detail["op_name"],
                self._delegated.place if detail["index"] in inside else BUILTIN,
            )
            for detail in details
            if detail["op_name"] != _DELEGATE
        )

    def _close(self) -> None:
        with self._lock:
            self._interpreter = None
            self._model = None


def open_session(model: ModelBytes, signature: Signature, execution: Execution) -> LiteRtSession:
    """`model` on ``execution.device``: the CPU (XNNPACK where the library has it) or a delegate.

    Raises `EngineError` when LiteRT cannot take it, or has no such delegate.
    """
    library = ENGINES["litert"].library()
    if library is None:  # removed since the caller looked
        raise EngineError(f"no LiteRT library is left to load {model.name}", fix=pip_install("tflite"))
    where = f"{model.name} in litert ({library.module} {library.version()})"
    module = import_for("litert", _INTERPRETERS[library.module])
    load_delegate = getattr(module, "load_delegate", None) or module.experimental.load_delegate
    delegated = delegation(execution, partial(load_library, load_delegate))
    resolvers = getattr(module, "OpResolverType", None) or module.experimental.OpResolverType
    try:
        interpreter = module.Interpreter(
            model_content=model.main,
            num_threads=execution.threads,
            experimental_delegates=None if delegated.delegate is None else [delegated.delegate],
            experimental_op_resolver_type=resolvers[_AUTO if delegated.xnnpack else _WITHOUT_DEFAULT_DELEGATES],
        )
        interpreter.allocate_tensors()
        session = LiteRtSession(interpreter, signature, model=model, delegated=delegated, where=where)
    except (RuntimeError, ValueError) as error:  # among them names of tensors that are no UTF-8
        raise cannot_load(where, str(error), library.distributions[0]) from error
    session.device = execution.device
    return session


def _delegated(details: Sequence[Mapping[str, Any]]) -> set[int]:
    """The operators that a delegate's node stands for.

    The interpreter lists the original operators and, behind them, the nodes that replace some: an operator is
    replaced when its result is needed for a delegate's outputs and is not one of its inputs.
    """
    makers = {
        int(tensor): detail for detail in details if detail["op_name"] != _DELEGATE for tensor in detail["outputs"]
    }
    inside: set[int] = set()
    for node in (detail for detail in details if detail["op_name"] == _DELEGATE):
        given = {int(tensor) for tensor in node["inputs"]}
        pending = [int(tensor) for tensor in node["outputs"]]
        while pending:
            maker = makers.get(pending.pop())
            if maker is None or maker["index"] in inside:
                continue
            inside.add(maker["index"])
            pending += [int(tensor) for tensor in maker["inputs"] if int(tensor) not in given]
    return inside


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    # shape_signature has -1 where the length is free; shape is what is allocated now.
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, tuple(int(size) for size in shape))
