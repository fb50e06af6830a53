"""The targets, one module each, with the same verbs: ``write`` a variant, ``quantize`` one, ``embed`` the manifest.

To add one: write a module with a class that has the members of `Target`, and add its line to `TARGETS`. The engine
that runs it is a line of `edgetl_runtime.engines.ENGINES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.quantize.quantization import Quantized
from edgetl_runtime.errors import MissingDependency, UsageError, nearest

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "Target",
    "TargetInfo",
    "check_installed",
    "check_names",
    "converters",
    "open_target",
]

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class TargetInfo:
    """A line of `TARGETS`: the runtime's name of the engine that runs it, the libraries that write it, its class."""

    engine: str
    libraries: tuple[str, ...]
    where: str


TARGETS: Mapping[str, TargetInfo] = {
    "onnx": TargetInfo(
        "onnxruntime", ("onnx", "onnx_ir", "onnxscript", "onnxruntime"), "edgetl_export.targets.to_onnx:OnnxTarget"
    ),
    "tflite": TargetInfo(
        "litert",
        ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
        "edgetl_export.targets.to_tflite:TfliteTarget",
    ),
    "openvino": TargetInfo("openvino", ("openvino",), "edgetl_export.targets.to_openvino:OpenvinoTarget"),
}


class Target(Protocol):
    """What the export needs of a target."""

    def write(self, captured: Captured, precision: str) -> Artifact:
        """The model at a floating-point precision; `ExportError` with the reason when that cannot be."""
        ...

    def quantize(self, quantized: Quantized) -> Artifact:
        """The int8 model; `ExportError` with the reason when that cannot be."""
        ...

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The same model with the manifest inside."""
        ...


def open_target(name: str) -> Target:
    """The target called `name`, one of `TARGETS`."""
    module, _, attribute = TARGETS[name].where.partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)()
    return target


def check_installed(names: tuple[str, ...]) -> None:
    """`MissingDependency` for the first library of these targets that is not installed; imports none of them."""
    for name in names:
        for library in TARGETS[name].libraries:
            if find_spec(library) is None:
                raise MissingDependency(library, needed_for=f"export to {name}", extra="export")


def converters(names: Iterable[str]) -> dict[str, str]:
    """Versions of the libraries that write these targets."""
    return {library: version(library) for name in names for library in TARGETS[name].libraries}


def check_names(targets: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    """`UsageError` for an unknown or a repeated target or precision, or none at all."""
    for what, names, known in (("target", targets, tuple(TARGETS)), ("precision", precisions, PRECISIONS)):
        if not names:
            raise UsageError(f"no {what} given", fix=f"choose from: {', '.join(known)}")
        for name in names:
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}", fix=nearest(name, list(known)))
        if len(set(names)) != len(names):
            raise UsageError(f"a {what} is given twice: {', '.join(names)}", fix="name each once")
