"""The engines that run variants: a literal table, and sessions opened through it.

A library is imported when a session is opened, never before. To add an engine: a line in `ENGINES`, and a module
beside this one with ``open_session(model, signature, execution)``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from edgetl_runtime.asked import is_count
from edgetl_runtime.engines.binding import Execution, ModelBytes, ModelPath, Signature
from edgetl_runtime.engines.devices import ANYWHERE, DEVICES
from edgetl_runtime.errors import EngineError, MissingDependency, UsageError, nearest
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.placement import FallbackWarning
from edgetl_runtime.session import Session

__all__ = [
    "DEVICES",
    "ENGINES",
    "EngineInfo",
    "Execution",
    "Library",
    "ModelBytes",
    "ModelPath",
    "Signature",
    "engine_info",
    "import_for",
    "installed",
    "its_environment",
    "missing",
    "open_session",
]


@dataclass(frozen=True)
class Library:
    """A Python library: the module to import, and the distributions on the package index that bring it."""

    module: str
    distributions: tuple[str, ...]

    def version(self) -> str | None:
        """Version of the installed library, found without importing it; None when it is not installed."""
        try:
            spec = importlib.util.find_spec(self.module)
        except ValueError:  # a module put into sys.modules without a spec
            return None
        # A folder that only has the same name (a bundle's own openvino/) is a namespace package: it has no origin.
        return None if spec is None or spec.origin is None else _version(spec.origin, self.distributions)


@functools.cache
def _version(origin: str, distributions: tuple[str, ...]) -> str:
    """Version of the first of `distributions` that is installed; "unknown" for a module that came another way.

    It stands in the name of the .dist-info folder beside the package of `origin`. Importing importlib.metadata costs
    16 ms and 4 MB, so it is only asked where there is no such folder.
    """
    names = [re.sub(r"[-_.]+", "_", distribution).lower() for distribution in distributions]
    found = {}
    # In a zip there are no folders.
    with suppress(OSError), os.scandir(os.path.dirname(os.path.dirname(origin))) as folders:
        for folder in folders:
            name, _, version = folder.name.removesuffix(".dist-info").partition("-")
            if folder.name.endswith(".dist-info"):
                found[re.sub(r"[-_.]+", "_", name).lower()] = version
    for name in names:
        if name in found:
            return found[name]
    import importlib.metadata

    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


@dataclass(frozen=True)
class EngineInfo:
    """An engine: the target it runs, its ``libraries`` in order of preference, the extra that installs the first.

    ``module`` is the module of this package that opens its sessions, ``opens_paths`` whether it takes a `ModelPath`: a
    file of this process, never one of the bundle, which may be another by the time that it is read.
    ``environment``: variables that are set while its library is imported or converts, unless the user has set them.
    """

    name: str
    target: str
    libraries: tuple[Library, ...]
    extra: str
    module: str
    opens_paths: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def library(self) -> Library | None:
        """The first library that is installed."""
        return next((library for library in self.libraries if library.version() is not None), None)


ENGINES: dict[str, EngineInfo] = {
    "onnxruntime": EngineInfo(
        name="onnxruntime",
        target="onnx",
        libraries=(
            Library("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")),
        ),
        extra="onnx",
        module="edgetl_runtime.engines.ort",
        # It copies what it needs. LiteRT reads the weights from the bytes that it is given, as long as it runs.
        opens_paths=True,
        # From 1.29 on it starts a thread that reports to its maker, and a forked process that ends waits for it.
        environment=(("ORT_DISABLE_TELEMETRY", "1"),),
    ),
    "litert": EngineInfo(
        name="litert",
        target="tflite",
        libraries=(
            Library("ai_edge_litert", ("ai-edge-litert",)),
            Library("tflite_runtime", ("tflite-runtime",)),
            Library("tensorflow", ("tensorflow", "tensorflow-cpu", "tensorflow-aarch64", "tensorflow-macos")),
        ),
        extra="tflite",
        module="edgetl_runtime.engines.litert",
    ),
    "openvino": EngineInfo(
        name="openvino",
        target="openvino",
        libraries=(Library("openvino", ("openvino",)),),
        extra="openvino",
        module="edgetl_runtime.engines.ov",
        # Else it reports to its maker that it was imported, by a process that a fork, when it ends, cannot wait for.
        environment=(("CI", "true"),),
    ),
}


def engine_info(engine: str) -> EngineInfo:
    """The engine called `engine`, or that runs the format of that name ("onnx", "tflite"); `UsageError` with the known
    ones when there is none."""
    for info in ENGINES.values():
        if engine in (info.name, info.target):
            return info
    raise UsageError(f"unknown engine {engine!r}", fix=nearest(str(engine), tuple(ENGINES)))


def installed(engine: str) -> str | None:
    """Version of the library that `engine` would use, without importing it; None when there is none."""
    library = engine_info(engine).library()
    return None if library is None else library.version()


def missing(engine: str) -> MissingDependency:
    """The error that tells how to install `engine`."""
    info = engine_info(engine)
    names = " or ".join(library.distributions[0] for library in info.libraries)
    return MissingDependency(names, needed_for=f"engine {engine}", extra=info.extra)


def import_for(engine: str, module: str) -> Any:
    """Import `module`, which is of the library of `engine`, or needs it.

    Raises `EngineError` for whatever goes wrong: libraries look for a home, a driver, another version of numpy, and
    end in any exception there is.
    """
    if module in sys.modules:
        return importlib.import_module(module)
    try:
        with its_environment(engine):
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        library = engine_info(engine).library()
        name = engine if library is None else f"{library.module} {library.version()}"
        reason = " ".join(str(error).split()) or "it says no more"
        raise EngineError(
            f"engine {engine} is not usable here, because {name} cannot be imported: {type(error).__name__}: {reason}",
            fix=f'python -c "import {module if library is None else library.module}" shows it; or take another engine',
        ) from error


@contextmanager
def its_environment(engine: str) -> Iterator[None]:
    """Meanwhile the variables of `engine` are set that the user has not set."""
    ours = {name: value for name, value in engine_info(engine).environment if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


_ON_CPU = Execution()


def open_session(
    engine: str, model: ModelBytes | ModelPath, signature: Signature, execution: Execution = _ON_CPU
) -> Session:
    """Load a model into an engine.

    The module of an engine has a function of this name, too; it takes all but the first argument.

    Args:
        engine: One of `ENGINES`.
        model: The bytes of its files, or, for an engine that ``opens_paths``, where they are.
        signature: Its inputs and outputs as the manifest describes them.
        execution: Threads and device. Operators that then run elsewhere than on a device that was named are a
            `FallbackWarning`.

    Returns:
        The session; it uses the names of `signature`.

    Raises:
        MissingDependency: The library of the engine is not installed.
        EngineError: It cannot take the model, has no such device, or, if `execution` is strict, runs operators
            elsewhere.
    """
    info = engine_info(engine)
    if execution.threads is not None and not is_count(execution.threads):
        raise UsageError(f"threads must be at least 1, not {execution.threads!r}", fix="leave it out for all cores")
    if info.library() is None:
        raise missing(engine)
    execution = replace(execution, threads=execution.threads or usable_cores())
    opened = partial(import_for(engine, info.module).open_session, signature=signature, execution=execution)
    session: Session = opened(model)
    from edgetl_runtime.forks import prepare  # here: until a session is opened nothing needs it

    prepare(session, opened, model)
    if execution.kind not in ANYWHERE:
        _hold_to_device(session, model, strict=execution.strict)
    return session


def _hold_to_device(session: Session, model: ModelBytes | ModelPath, *, strict: bool) -> None:
    """Say which operators fell back, if any did: no accelerator is left without a word."""
    placement = session.placement()
    if not placement.fallen_back:
        return
    message = f"{model.name} does not wholly run on the device that was asked for: {placement}"
    if strict:
        session.close()
        raise EngineError(message, fix="another device or variant, or leave strict out to accept it")
    warnings.warn(message, FallbackWarning, stacklevel=4)
