"""Which execution provider of ONNX Runtime a device means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgetl_runtime.engines.binding import Execution
from edgetl_runtime.engines.devices import unavailable
from edgetl_runtime.errors import EngineError
from edgetl_runtime.frozen import dataclass, field

__all__ = ["CPU", "PROVIDERS", "Provider", "not_started", "short_name", "wanted_providers"]

CPU = "CPUExecutionProvider"
_SUFFIX = "ExecutionProvider"
_ENGINE = "onnxruntime"


@dataclass(frozen=True)
class Provider:
    """An execution provider: its ``name``, the options it is given, and the package ``brought_by`` which it comes."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    brought_by: str = "a build of ONNX Runtime that has it"


PROVIDERS: dict[str, Provider] = {
    "cuda": Provider("CUDAExecutionProvider", brought_by="onnxruntime-gpu"),
    "tensorrt": Provider("TensorrtExecutionProvider", brought_by="onnxruntime-gpu"),
    "directml": Provider("DmlExecutionProvider", brought_by="onnxruntime-directml"),
    "coreml": Provider("CoreMLExecutionProvider", brought_by="onnxruntime on macOS"),
    "migraphx": Provider("MIGraphXExecutionProvider", brought_by="onnxruntime-migraphx"),
    "nnapi": Provider("NnapiExecutionProvider"),
    "qnn": Provider("QNNExecutionProvider", {"backend_type": "htp"}, brought_by="onnxruntime-qnn"),
    "vitisai": Provider("VitisAIExecutionProvider"),
    "xnnpack": Provider("XnnpackExecutionProvider"),
    "openvino": Provider("OpenVINOExecutionProvider", brought_by="onnxruntime-openvino"),
}
"""By the name that `load` takes as a device."""

# In the order in which they are tried. TensorRT stands behind CUDA: it builds an engine for minutes when a model is
# loaded, so it is for those who name it.
_KINDS: dict[str, tuple[Provider, ...]] = {
    "gpu": (
        PROVIDERS["cuda"],
        PROVIDERS["directml"],
        Provider("CoreMLExecutionProvider", {"MLComputeUnits": "CPUAndGPU"}, PROVIDERS["coreml"].brought_by),
        PROVIDERS["migraphx"],
        Provider("OpenVINOExecutionProvider", {"device_type": "GPU"}, PROVIDERS["openvino"].brought_by),
        PROVIDERS["tensorrt"],
    ),
    "npu": (
        PROVIDERS["qnn"],
        Provider("CoreMLExecutionProvider", {"MLComputeUnits": "CPUAndNeuralEngine"}, PROVIDERS["coreml"].brought_by),
        PROVIDERS["nnapi"],
        PROVIDERS["vitisai"],
        Provider("OpenVINOExecutionProvider", {"device_type": "NPU"}, PROVIDERS["openvino"].brought_by),
    ),
}


def wanted_providers(execution: Execution, available: Sequence[str]) -> tuple[Provider, ...]:
    """The providers for ``execution.device`` that are `available`, the first to be tried first; for "auto" the CPU is
    the last of them. Options of the execution stand before the table's.

    A device is "cpu", "gpu", "npu", "auto", a name of `PROVIDERS`, or a provider's full name.
    Raises `EngineError` when ONNX Runtime has no such provider here.
    """
    return tuple(
        Provider(found.name, {**found.options, **execution.options}, found.brought_by)
        for found in _find(execution, available)
    )


def not_started(execution: Execution, providers: Sequence[Provider]) -> EngineError:
    """The error for `providers` that are in the build and do not start, because of what the machine lacks."""
    names = " or ".join(short_name(provider.name) for provider in providers)
    reason = f"{names} did not start: its libraries or its hardware are missing"
    fix = "install its driver and libraries"
    return unavailable(execution.device, _ENGINE, reason, known=("cpu", "auto"), fix=fix)


def short_name(provider: str) -> str:
    """A provider as a place: ``CUDAExecutionProvider`` is ``CUDA``."""
    return provider.removesuffix(_SUFFIX)


def _find(execution: Execution, available: Sequence[str]) -> list[Provider]:
    device, kind = execution.device, execution.kind
    if kind == "cpu":
        return [Provider(CPU)]
    if kind == "auto":
        accelerators = [provider for providers in _KINDS.values() for provider in providers]
        return [*(provider for provider in accelerators if provider.name in available), Provider(CPU)]
    known = ["cpu", "auto", *_devices(available)]
    if kind == "edgetpu":
        raise unavailable(device, _ENGINE, "an Edge TPU runs TFLite files", known=known, fix='engine="litert"')
    if device in available:
        return [Provider(device)]
    candidates = _KINDS.get(kind) or ((PROVIDERS[kind],) if kind in PROVIDERS else ())
    there = [provider for provider in candidates if provider.name in available]
    if there:
        return there
    if not candidates:
        raise unavailable(device, _ENGINE, "it knows no provider of that name", known=known)
    names = " or ".join(short_name(provider.name) for provider in candidates)
    bring = " or ".join(dict.fromkeys(provider.brought_by for provider in candidates))
    raise unavailable(device, _ENGINE, f"the installed build lacks {names}", known=known, fix=f"install {bring}")


def _devices(available: Sequence[str]) -> list[str]:
    """What can be asked for of the providers in `available`, by their short names."""
    kinds = [kind for kind, providers in _KINDS.items() if any(provider.name in available for provider in providers)]
    named = [device for device, provider in PROVIDERS.items() if provider.name in available]
    known = {provider.name for provider in PROVIDERS.values()} | {CPU}
    return [*kinds, *named, *(name for name in available if name not in known)]
