"""The targets, one module each, with the same verbs: ``write`` a variant, ``quantize`` one, ``embed`` the manifest.

To add one: write a module with a class that has the members of `Target`, and add its line to `TARGETS`. The engine
that runs it is a line of `edgetl_runtime.engines.ENGINES`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.quantize.quantization import Quantized
from edgetl_runtime.batch_sizes import FREE, batch_of
from edgetl_runtime.engines import import_for
from edgetl_runtime.errors import EngineError, MissingDependency, UsageError, nearest

__all__ = [
    "ALL_PRECISIONS",
    "BORDERS",
    "CALIBRATED",
    "OPSETS",
    "PRECISIONS",
    "TARGETS",
    "Target",
    "TargetInfo",
    "check_batch",
    "check_installed",
    "check_io",
    "check_names",
    "check_opset",
    "check_supported",
    "converters",
    "open_target",
]

PRECISIONS = ("fp32", "fp16", "int8")
"""What is written when nothing else is asked for."""

ALL_PRECISIONS = (*PRECISIONS, "w8", "dynamic", "w8a16")
"""``w8``: int8 weights, float activations; ``dynamic``: activations are rounded to 8 bits at run time, where that is
faster; ``w8a16``: int8 weights, int16 activations, from the calibration like int8."""

CALIBRATED = ("int8", "w8a16")
"""Precisions whose activations are rounded to grids that the calibration found."""

OPSETS = range(13, 21)
"""Operator sets that ONNX files can have: from 13 on weights have a scale for each channel, 20 is the exporter's."""

BORDERS = ("float", "int8")
"""What a variant takes and gives: uint8 pixels and float32 logits, or int8 both."""


@dataclass(frozen=True)
class TargetInfo:
    """A line of `TARGETS`: the runtime's name of the engine that runs it, the libraries that write it, its class.

    ``refused`` has the precisions that it cannot be written at, with the reason.
    """

    engine: str
    libraries: tuple[str, ...]
    where: str
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those it can be written at."""
        return tuple(precision for precision in ALL_PRECISIONS if precision not in self.refused)


TARGETS: Mapping[str, TargetInfo] = {
    "onnx": TargetInfo(
        "onnxruntime",
        ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
        "edgetl_export.targets.onnx_file:OnnxTarget",
        {
            # Measured with ONNX Runtime 1.31 on MobileNetV2: no operator fuses with uint16 pairs, 0.48x of fp32.
            "w8a16": "ONNX Runtime computes 16-bit activations in float32 and rounds them before every layer, "
            "half as fast as fp32"
        },
    ),
    "tflite": TargetInfo(
        "litert",
        ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
        "edgetl_export.targets.tflite_file:TfliteTarget",
    ),
    "openvino": TargetInfo(
        "openvino",
        ("openvino",),
        "edgetl_export.targets.openvino_file:OpenvinoTarget",
        {
            # Measured with OpenVINO 2026.4 on MobileNetV2: every convolution runs at f32, 0.90x of fp32.
            "w8a16": "OpenVINO computes 16-bit activations in float32, which is what w8 does without the rounding"
        },
    ),
}


class Target(Protocol):
    """What the export needs of a target."""

    def write(self, captured: Captured, precision: str) -> Artifact:
        """The model at a precision that needs no calibration.

        Args:
            captured: The network: uint8 (N, H, W, C) to its outputs by name.
            precision: One of `ALL_PRECISIONS`, but none of `CALIBRATED`.

        Returns:
            The files, in memory.

        Raises:
            ExportError: It cannot be written, with the reason.
        """
        ...

    def quantize(self, quantized: Quantized, precision: str = "int8", *, io: str = "float") -> Artifact:
        """The model in integers.

        Args:
            quantized: The network, and the grids of its weights and activations.
            precision: One of `CALIBRATED`.
            io: What it takes and gives, one of `BORDERS`.

        Returns:
            The files, in memory, with a summary of the quantisation.

        Raises:
            ExportError: It cannot be written, with the reason.
        """
        ...

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The same model with the manifest inside.

        Args:
            artifact: What `write` or `quantize` gave.
            manifest_json: The text; a device finds it with `edgetl_runtime.modelfile`.

        Returns:
            The files with the manifest and its seal.
        """
        ...


@dataclass(frozen=True)
class _Unusable:
    """A target whose library cannot be imported here: each of its variants fails with the reason."""

    error: EngineError

    def write(self, captured: Captured, precision: str) -> Artifact:
        raise self.error

    def quantize(self, quantized: Quantized, precision: str = "int8", *, io: str = "float") -> Artifact:
        raise self.error

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        raise self.error


def open_target(name: str, *, opset: int | None = None) -> Target:
    """The target called `name`, one of `TARGETS`; `opset` is ONNX's alone (see `check_opset`).

    Where its library cannot be imported, all it is asked for fails with that `EngineError`, so that the other targets
    go on.
    """
    module, _, attribute = TARGETS[name].where.partition(":")
    try:
        make = getattr(import_for(TARGETS[name].engine, module), attribute)
        target: Target = make() if opset is None or name != "onnx" else make(opset)
    except EngineError as error:
        return _Unusable(error)
    return target


def check_installed(names: tuple[str, ...]) -> None:
    """`MissingDependency` for the first library of these targets that is not installed; imports none of them.

    `UsageError` where Python runs without docstrings and a converter reads its own.
    """
    if "openvino" in names and sys.flags.optimize > 1:
        raise UsageError(
            "OpenVINO's converter reads its own docstrings, which python -OO leaves out",
            fix="export with python or python -O; what was exported runs with -OO too",
        )
    for name in names:
        for library in TARGETS[name].libraries:
            if find_spec(library) is None:
                raise MissingDependency(library, needed_for=f"export to {name}", extra="export")


def converters(names: Iterable[str]) -> dict[str, str]:
    """Versions of the libraries that write these targets."""
    return {library: version(library) for name in names for library in TARGETS[name].libraries}


def check_names(targets: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    """`UsageError` for an unknown or a repeated target or precision, none at all, or two that do not go together."""
    for what, names, known in (("target", targets, tuple(TARGETS)), ("precision", precisions, ALL_PRECISIONS)):
        if not names:
            raise UsageError(f"no {what} given", fix=f"choose from: {', '.join(known)}")
        for name in names:
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}", fix=nearest(name, list(known)))
        if len(set(names)) != len(names):
            raise UsageError(f"a {what} is given twice: {', '.join(names)}", fix="name each once")
    check_supported(targets, precisions)


def check_supported(targets: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    """`UsageError` with the reason for the first of these precisions that one of these targets is refused at."""
    for target in targets:
        info = TARGETS[target]
        for precision in precisions:
            if precision in info.refused:
                able = [name for name in TARGETS if precision not in TARGETS[name].refused]
                raise UsageError(
                    f"{target} cannot be written at {precision}: {info.refused[precision]}",
                    fix=f"--precisions {','.join(info.precisions)} for {target}; {precision} has {', '.join(able)}",
                )


def check_opset(opset: int | None, targets: tuple[str, ...]) -> None:
    """`UsageError` for an operator set that is not written, or without ONNX files.

    Whether a network fits is only known when it is there: `edgetl_export.targets.onnx_opset.lowered`.
    """
    if opset is None:
        return
    if "onnx" not in targets:
        raise UsageError("--opset is for ONNX files, and none are written", fix="add onnx to --targets")
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} is not written: {OPSETS[-1]} is what edgetl writes, older ones are for old runtimes",
            fix=f"--opset {OPSETS[0]} to {OPSETS[-1]}, or leave it out",
        )


def check_batch(batch: int, targets: tuple[str, ...]) -> None:
    """`UsageError` for a number of images that no file takes, or for any number of them where a target has none."""
    if batch != FREE:
        batch_of(batch)
        return
    fixed = [name for name in targets if name in _FIXED_BATCH]
    if fixed:
        able = [name for name in targets if name not in fixed] or [n for n in TARGETS if n not in _FIXED_BATCH]
        raise UsageError(
            f"{', '.join(fixed)} files take a fixed number of images in one run, not any",
            fix=f"--batch 8 (or another number), or --batch free --targets {','.join(able)}",
        )


_FIXED_BATCH = ("tflite",)
"""Targets without a free batch. LiteRT can resize an input, but the converter writes shapes for one number of images
into the file, and delegates are set up for it."""


def check_io(io: str, targets: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    """`UsageError` when `io` is unknown, or int8 and asked of a variant that cannot have it: all but tflite.int8."""
    if io not in BORDERS:
        raise UsageError(f"unknown borders {io!r}", fix=nearest(io, list(BORDERS)))
    if io == "float":
        return
    others = [f"{target}.{precision}" for target in targets for precision in precisions]
    others = [variant for variant in others if variant != "tflite.int8"]
    if others:
        raise UsageError(
            f"--io int8 cannot be had for {', '.join(others)}: int8 in and out is for microcontrollers and the Edge "
            "TPU, which run TFLite's integer operators alone",
            fix="--io int8 --targets tflite --precisions int8",
        )
