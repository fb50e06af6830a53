"""A Keras model of a process whose backend is not torch: a file, and a second process.

TensorFlow and `torch.export` in one process end in a segmentation fault.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetl.models.sources.keras_model.loading import saved_bytes
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.writing import write_file

__all__ = ["export_apart", "is_apart"]

_PROGRAM = """
import json, sys
from edgetl import api
from edgetl_runtime.errors import EdgetlError
arguments = json.load(sys.stdin)
try:
    api.export(arguments.pop("checkpoint"), tell=lambda line: print(line, flush=True), **arguments)
except EdgetlError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
_KEPT_LINES = 12


def is_apart(model: object) -> bool:
    """Whether it is a Keras model of a backend that cannot share a process with what exports it."""
    keras: Any = sys.modules.get("keras")
    made_by = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in made_by:
        return True
    return "keras" in made_by and keras is not None and keras.config.backend() != "torch"


def export_apart(model: Any, arguments: Mapping[str, Any]) -> str:
    """``edgetl.api.export`` of `model` in a process of its own; gives the lines that it told.

    Raises `UsageError` for arguments that cannot be handed over, `ExportError` with what the other process said.
    """
    try:
        content = saved_bytes(model)
    except Exception as error:  # Keras raises whatever a layer leads it to
        raise UsageError(
            f"the model cannot be saved: {error}", fix="model.save('model.keras') says what is missing"
        ) from error
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        file = Path(folder) / "model.keras"
        write_file(file, content)
        try:
            text = json.dumps({**arguments, "checkpoint": str(file)}, default=os.fspath)
        except TypeError as error:
            raise UsageError(
                f"{error}: the export runs in a process of its own, because Keras is not on torch here",
                fix="model.save('model.keras'), and api.export('model.keras', ...) where KERAS_BACKEND is torch",
            ) from error
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=text,
            env={**os.environ, "KERAS_BACKEND": "torch"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-_KEPT_LINES:])
        raise ExportError(f"the export in a process of its own failed:\n{said}", fix="export the saved model.keras")
    return done.stdout
