"""The engine border: describe, run, close. Everything else is a function around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias

import numpy as np

from edgetl_runtime.errors import EngineError, UsageError
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.placement import OperatorPlace, Placement

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FakeSession", "IntegerSession", "Session", "Tensors"]

Tensors: TypeAlias = "dict[str, npt.NDArray[Any]]"


class Session(ABC):
    """An engine with a variant loaded.

    ``inputs`` and ``outputs`` describe the tensors as the file has them; ``engine`` and ``engine_version`` say
    what runs it, ``device`` where it was asked to, ``wanted`` the places in a `Placement` that keep that promise.
    Threads may share a session; ``concurrent`` says whether their runs overlap or take turns.
    A session is a context manager; closing twice is fine, running after that is an `EngineError`.
    ``inherited``: by a forked process, what opens it anew there when it is used: see `edgetl_runtime.forks`.
    """

    engine: str
    engine_version: str
    device: str = "cpu"
    wanted: tuple[str, ...] = ()
    concurrent: bool = False
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    inherited: Callable[[Session], None] | None = None
    _closed: bool = False

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Run once.

        Args:
            feeds: Tensors by name, of the dtypes and shapes of ``inputs``.

        Returns:
            Tensors by name, as ``outputs`` says.

        Raises:
            EngineError: A tensor is missing, unknown or of another dtype or shape, or the session is closed.
        """
        if self._closed or self.inherited is not None:
            self._be_open()
        if not self._fits_exactly(feeds):
            self._check(feeds)
        return self._run(feeds)

    def placement(self) -> Placement:
        """Where each operator runs. Raises `EngineError` when the session is closed, or its engine cannot tell."""
        self._be_open()
        return Placement(self.engine, self.device, self._operators(), self.wanted)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"on {self.device}"
        tensors = " -> ".join(
            ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
            for specs in (self.inputs, self.outputs)
        )
        return f"<{type(self).__name__} {self.engine} {self.engine_version} {state}: {tensors}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"a session cannot be pickled or copied: it has {self.engine} open",
            fix="open it in each process; a process that is forked may use its parent's",
        )

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Let the engine go. What a forked process inherited stays where it is: its threads cannot end there."""
        if not self._closed:
            self._closed = True
            if self.inherited is None:
                self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _be_open(self) -> None:
        if self._closed:
            raise EngineError("this session is closed", fix="load the model again")
        if self.inherited is not None:
            self.inherited(self)

    @abstractmethod
    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _operators(self) -> tuple[OperatorPlace, ...]: ...

    @cached_property
    def _expected(self) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]:
        return tuple((spec.name, np.dtype(spec.dtype), spec.shape) for spec in self.inputs)

    def _fits_exactly(self, feeds: Mapping[str, npt.NDArray[Any]]) -> bool:
        """The usual case, told in a microsecond. What does not fit so is left to `_check`: it may fit a free length."""
        if type(feeds) is not dict or len(feeds) != len(self._expected):
            return False
        for name, dtype, shape in self._expected:
            tensor = feeds.get(name)
            if type(tensor) is not np.ndarray or tensor.shape != shape or tensor.dtype != dtype:
                return False
        return True

    def _check(self, feeds: Any) -> None:
        if not isinstance(feeds, Mapping):
            kind = type(feeds).__name__
            raise EngineError(f"a session runs tensors by name, given {kind}", fix='run({"image": ...})')
        if len(feeds) != len(self.inputs) or any(spec.name not in feeds for spec in self.inputs):
            wanted = ", ".join(spec.name for spec in self.inputs)
            given = ", ".join(map(str, feeds)) or "nothing"
            raise EngineError(f"the model takes {wanted}; given: {given}", fix=f"give just {wanted}")
        for spec in self.inputs:
            tensor = feeds[spec.name]
            if not isinstance(tensor, np.ndarray):
                raise EngineError(
                    f"input {spec.name!r} must be a numpy array, given {type(tensor).__name__}", fix="numpy.asarray"
                )
            fits = len(tensor.shape) == len(spec.shape) and all(
                want in (-1, have) for want, have in zip(spec.shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype != np.dtype(spec.dtype):
                raise EngineError(
                    f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}, "
                    f"given {tensor.dtype} {list(tensor.shape)}",
                    fix="convert or reshape it; `preprocess` makes the right one of an image",
                )


class FakeSession(Session):
    """A session without an engine, so that an application can be tested without one.

    `compute` gets the input tensors and returns the output tensors.
    """

    engine = "fake"
    engine_version = "0"

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        compute: Callable[[Mapping[str, npt.NDArray[Any]]], Tensors],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._compute = compute

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        return self._compute(feeds)

    def _close(self) -> None:
        return None

    def _operators(self) -> tuple[OperatorPlace, ...]:
        return ()


class IntegerSession(Session):
    """A file that takes int8 images, or gives int8 outputs, behind uint8 pixels and float32 outputs.

    `inner` runs the file; `image`, for as many of them as the file takes, and `outputs` are what a caller sees: uint8
    (N, H, W, C), of which each grey level goes in less 128, and float32, ``(integer - zero_point) * scale`` of what the
    file gives under the same name. What has no scale there is handed on as it is.
    """

    def __init__(self, inner: Session, image: TensorSpec, outputs: tuple[TensorSpec, ...]) -> None:
        self.engine, self.engine_version = inner.engine, inner.engine_version
        self.device, self.wanted, self.concurrent = inner.device, inner.wanted, inner.concurrent
        batch = inner.inputs[0].shape[:1]
        self.inputs, self.outputs = (replace(image, shape=batch + image.shape[1:]),), outputs
        self._inner = inner

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        (image,) = self._inner.inputs
        pixels = feeds[self.inputs[0].name]
        if image.dtype == "int8":
            # Flipping the highest bit takes 128 off, and no wider integers are needed.
            pixels = np.bitwise_xor(pixels, np.uint8(128)).view(np.int8)
        tensors = self._inner.run({image.name: pixels})
        for spec in self._inner.outputs:
            if spec.scale is not None and spec.zero_point is not None:
                integers = tensors[spec.name].astype(np.float32)
                tensors[spec.name] = (integers - np.float32(spec.zero_point)) * np.float32(spec.scale)
        return tensors

    def _close(self) -> None:
        self._inner.close()

    def _operators(self) -> tuple[OperatorPlace, ...]:
        return self._inner.placement().operators
