"""A torch model to files: ONNX, TFLite and OpenVINO at several precisions, in one bundle.

Knows nothing of training, data sets or gates. `export` is the whole of it; `edgetl.export` is what most people call.
Torch is imported when one of these names is used, and not for `progress` or `staging`: a command line that finds a
misspelt folder does not wait for it, and verification does without.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetl_export.calibration import CalibrationSamples
    from edgetl_export.capture import Captured, capture
    from edgetl_export.export import Exported, ExportOptions, export
    from edgetl_export.source import Source
    from edgetl_export.targets import PRECISIONS, TARGETS

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "CalibrationSamples",
    "Captured",
    "ExportOptions",
    "Exported",
    "Source",
    "capture",
    "export",
]

_MODULES = {
    **dict.fromkeys(("Captured", "capture"), "edgetl_export.capture"),
    **dict.fromkeys(("ExportOptions", "Exported", "export"), "edgetl_export.export"),
    **dict.fromkeys(("PRECISIONS", "TARGETS"), "edgetl_export.targets"),
    "CalibrationSamples": "edgetl_export.calibration",
    "Source": "edgetl_export.source",
}
"""Where each name is from."""


class _Package(ModuleType):
    """Importing ``edgetl_export.export`` binds that module in its package: `export` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_MODULES[name]), name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
