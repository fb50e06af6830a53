"""Files that Keras 2 wrote, as those of TensorFlow up to 2.15 are: HDF5 is read, its own ``.keras`` is not."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["modernise", "opens_as_hdf5", "version_of"]

_CONFIG = "model_config"
_METADATA = "metadata.json"


def version_of(path: Path) -> str:
    """The version of Keras that wrote a model file, as the file says; empty where it does not."""
    with contextlib.suppress(OSError, KeyError, ValueError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read(_METADATA))["keras_version"])
        with _opened(path, "r") as file:
            return str(file.attrs["keras_version"])
    return ""


def modernise(path: Path) -> None:
    """Take out of an HDF5 file of Keras 2, in place, what Keras 3 refuses: depthwise layers that say their groups."""
    if not version_of(path).startswith("2.") or zipfile.is_zipfile(path):
        return
    with _opened(path, "r+") as file:
        config = json.loads(file.attrs[_CONFIG]) if _CONFIG in file.attrs else {}
        for layer in _layers(config):
            if "Depthwise" in str(layer["class_name"]):
                layer["config"].pop("groups", None)
        if config:
            file.attrs[_CONFIG] = json.dumps(config)


def opens_as_hdf5(path: Path) -> bool:
    """Whether it is an HDF5 file, and whole."""
    try:
        with _opened(path, "r"):
            return True
    except OSError:
        return False


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in a configuration that is a layer."""
    if isinstance(value, dict):
        if "class_name" in value and isinstance(value.get("config"), dict):
            yield value
        for inner in value.values():
            yield from _layers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _layers(inner)


def _opened(path: Path, mode: str) -> Any:
    # Here, because the extra keras brings it.
    import h5py

    return h5py.File(path, mode)
