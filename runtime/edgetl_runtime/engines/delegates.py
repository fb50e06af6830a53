"""Which delegate of LiteRT a device means: a library that takes operators off the interpreter's own kernels."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, TypeAlias

from edgetl_runtime.engines.binding import Execution
from edgetl_runtime.engines.devices import unavailable
from edgetl_runtime.errors import EngineError
from edgetl_runtime.frozen import dataclass

__all__ = ["BUILTIN", "LIBRARIES", "XNNPACK", "Delegation", "LoadDelegate", "delegation", "load_library"]

XNNPACK = "XNNPACK"
BUILTIN = "CPU"
"""How a `Placement` calls the interpreter's own kernels."""

LoadDelegate: TypeAlias = Callable[[str, dict[str, str]], Any]
"""The path of a library and its options to a delegate: `OSError` when it is none, `ValueError` for the options."""

_ENGINE = "litert"
_ENTRY_POINT = "tflite_plugin_create_delegate"
LIBRARIES: dict[str, tuple[str, ...]] = {
    "gpu": ("libtensorflowlite_gpu_delegate.so", "libtensorflowlite_gpu_gl.so"),
    # Qualcomm's, NXP's (VeriSilicon) and Arm's.
    "npu": ("libQnnTFLiteDelegate.so", "libvx_delegate.so", "libethosu_delegate.so"),
    "edgetpu": ("libedgetpu.so.1", "libedgetpu.1.dylib", "edgetpu.dll"),
}
"""The libraries that are tried for a device, by the names under which their makers ship them."""

_ENDINGS = (".so", ".dylib", ".dll")
_KNOWN = ("cpu", "auto", "xnnpack", "builtin", "the path of a delegate library")


@dataclass(frozen=True)
class Delegation:
    """``place``: where delegated operators run; ``delegate``: the loaded library, None for XNNPACK, which the
    interpreter has of itself; ``xnnpack``: whether it is on; ``wanted``: see `Placement`."""

    place: str
    delegate: Any
    xnnpack: bool
    wanted: tuple[str, ...]


def delegation(execution: Execution, load: LoadDelegate) -> Delegation:
    """What to give the interpreter for ``execution.device``; `load` is `load_library` on LiteRT's own.

    A device is "cpu", "auto", "gpu", "npu", "edgetpu", "xnnpack", "builtin" (the interpreter's own kernels, without
    XNNPACK) or the path of an external delegate's library. Beside a library XNNPACK is off, so that a delegated
    operator can only be in that library. Raises `EngineError` when a library is not there or is no delegate.
    """
    device, kind = execution.device, execution.kind
    if kind == "cpu":
        return Delegation(XNNPACK, None, xnnpack=True, wanted=())
    if kind == "xnnpack":
        return Delegation(XNNPACK, None, xnnpack=True, wanted=(XNNPACK,))
    if kind == "builtin":
        return Delegation(XNNPACK, None, xnnpack=False, wanted=(BUILTIN,))
    if kind == "auto":
        return _automatic(execution, load)
    if kind in LIBRARIES:
        place, names = kind.upper(), LIBRARIES[kind]
    elif (file := os.path.basename(device)).endswith(_ENDINGS) or ".so." in file:
        place, names = file, (device,)
    else:
        raise unavailable(device, _ENGINE, "it knows no delegate of that name", known=_KNOWN)
    delegate, reasons = _first(names, execution, load)
    if delegate is None:
        install = f"install the library of the {kind} and name its path" if kind in LIBRARIES else "check the path"
        raise unavailable(device, _ENGINE, "; ".join(reasons), known=_KNOWN, fix=install)
    return Delegation(place, delegate, xnnpack=False, wanted=(place,))


def _automatic(execution: Execution, load: LoadDelegate) -> Delegation:
    for kind, names in LIBRARIES.items():
        delegate, _ = _first(names, execution, load)
        if delegate is not None:
            return Delegation(kind.upper(), delegate, xnnpack=False, wanted=())
    return Delegation(XNNPACK, None, xnnpack=True, wanted=())


def load_library(load_delegate: LoadDelegate, library: str, options: dict[str, str]) -> Any:
    """`load_delegate` of a library that is there and is a delegate, else `OSError`.

    LiteRT's own check leaves a half-made object that complains on stderr when it goes.
    """
    if not hasattr(ctypes.CDLL(library), _ENTRY_POINT):
        raise OSError(f"{library} is no delegate: it has no {_ENTRY_POINT}")
    return load_delegate(library, options)


def _first(names: tuple[str, ...], execution: Execution, load: LoadDelegate) -> tuple[Any, list[str]]:
    """The first of these libraries that loads, and why those before it did not."""
    reasons: list[str] = []
    for name in names:
        try:
            return load(name, dict(execution.options)), reasons
        except OSError as error:
            reasons.append(str(error))
        except ValueError as error:
            raise EngineError(
                f"the delegate {name} refused its options {dict(execution.options)}: {error}",
                fix="device_options as the delegate documents them",
            ) from error
    return None, reasons
