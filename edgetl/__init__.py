"""Photos to a verified bundle: fine-tune a vision backbone, export it, and prove that the exported files agree.

::

    import edgetl

    checkpoint = edgetl.finetune("photos/", backbone="mobilenet_v2")
    bundle = edgetl.export(checkpoint, calibration="photos/", out="flowers.edgetl")
    report = edgetl.verify(bundle, data="photos/")

`edgetl_runtime` runs the bundle without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgetl_runtime import __version__

if TYPE_CHECKING:
    from edgetl.api import Checkpoint, Report, export, finetune, verify

__all__ = ["Checkpoint", "Report", "__version__", "export", "finetune", "verify"]


def __getattr__(name: str) -> Any:
    # torch is imported when it is needed: `edgetl -h` must not take seconds.
    if name in __all__:
        return getattr(importlib.import_module("edgetl.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
