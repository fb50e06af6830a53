"""The engine border: describe, run, close. Everything else is a function around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import TensorSpec

__all__ = ["FakeSession", "Session", "Tensors"]

Tensors = dict[str, npt.NDArray[Any]]


class Session(ABC):
    """An engine with a variant loaded.

    ``inputs`` and ``outputs`` describe the tensors as the file has them; ``engine`` and ``engine_version`` say
    what runs it. A session is a context manager; closing twice is fine, running after that is an `EngineError`.
    """

    engine: str
    engine_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    _closed: bool = False

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Run once: input tensors by name to output tensors by name.

        Raises `EngineError` when a tensor is missing, unknown or of another dtype or shape, or the session is closed.
        """
        if self._closed:
            raise EngineError("this session is closed", fix="load the model again")
        self._check(feeds)
        return self._run(feeds)

    def close(self) -> None:
        """Let the engine go."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _check(self, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        if len(feeds) != len(self.inputs) or any(spec.name not in feeds for spec in self.inputs):
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise EngineError(f"the model takes {wanted}; given: {', '.join(feeds) or 'nothing'}")
        for spec in self.inputs:
            tensor = feeds[spec.name]
            fits = len(tensor.shape) == len(spec.shape) and all(
                want in (-1, have) for want, have in zip(spec.shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype != np.dtype(spec.dtype):
                raise EngineError(
                    f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}, "
                    f"given {tensor.dtype} {list(tensor.shape)}"
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
