"""Keras itself, on the torch backend: TensorFlow is never imported. Files of models, and what is wrong with them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgetl.models.sources.keras_model.keras_2 import modernise, version_of
from edgetl.models.sources.own_code import loaded_file
from edgetl_runtime.errors import CheckpointError, MissingDependency, UsageError

__all__ = ["Custom", "check_is_model", "custom_code", "keras_on_torch", "load_model", "saved_bytes"]

_LAMBDA = "Lambda"


@dataclass(frozen=True)
class Custom:
    """What a user's file of code brings: ``translations`` by the name or class of a layer, and ``objects`` to load."""

    translations: Mapping[str, Callable[[Any], nn.Module]] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)


def keras_on_torch() -> Any:
    """The module keras, on the torch backend.

    Raises `MissingDependency` without it, `UsageError` where it runs on another backend in this process already.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "keras", needed_for="a Keras model", extra="keras") from error
    if keras.backend.backend() != "torch":
        raise UsageError(
            f"Keras runs on {keras.backend.backend()} in this process",
            fix="model.save('model.keras'), then: edgetl export model.keras",
        )
    return keras


def custom_code(path: Path | None) -> Custom:
    """The user's file, run. Raises `UsageError`."""
    if path is None:
        return Custom()
    keras = keras_on_torch()
    code = loaded_file(path)
    translations = getattr(code, "TRANSLATIONS", {})
    if not isinstance(translations, Mapping):
        raise UsageError(
            f"TRANSLATIONS of {path} is no dict", fix='TRANSLATIONS = {"name or class of a layer": function}'
        )
    layers = {name: value for name, value in vars(code).items() if _is_layer(value, keras)}
    return Custom(dict(translations), layers)


def _is_layer(value: object, keras: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras.layers.Layer)


def check_is_model(path: Path) -> None:
    """Raise `CheckpointError` for a file that is not there, or that is called as Keras calls weights alone."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", fix="check the path")
    if path.name.endswith(".weights.h5"):
        raise CheckpointError(f"{path} has weights alone, no layers", fix="model.save('model.keras') where it was made")


def load_model(path: Path, custom: Custom, *, where: str) -> Any:
    """The model of a ``.keras`` or ``.h5`` file, a copy: what Keras 2 wrote is changed in place. Nothing in the file is
    run, but a Lambda that `custom` translates.

    Raises `CheckpointError` for files that are no models, `UsageError` for a Lambda or a layer of the user's own.
    """
    keras = keras_on_torch()
    names_lambda = any(_LAMBDA.lower() in name.lower() for name in custom.translations)
    try:
        modernise(path)
        return keras.saving.load_model(
            path, custom_objects=dict(custom.objects) or None, compile=False, safe_mode=not names_lambda
        )
    except Exception as error:  # Keras raises whatever a file leads it to
        version = version_of(path)
        if version.startswith("2.") and path.suffix == ".keras":
            raise CheckpointError(
                f"{where} was saved by Keras {version}, in a form that Keras 3 does not read",
                fix="in the program that made it: model.save('model.h5'), then edgetl export model.h5",
            ) from error
        raise _told(where, str(error), type(error).__name__) from error


def _told(path: str, said: str, kind: str) -> CheckpointError | UsageError:
    line = next((one.strip() for one in said.splitlines() if one.strip()), kind)
    if _LAMBDA in said and ("safe_mode" in said or "unsafe" in said):
        return UsageError(
            f"{path} has a Lambda layer: to load it is to run code that is in the file",
            fix="write it as layers (Rescaling, Activation), or name its translation: --custom module.py, with "
            'TRANSLATIONS = {"Lambda": function}',
        )
    if "Could not locate class" in said or "Unknown layer" in said or "custom" in said.lower():
        return UsageError(
            f"{path} has a layer of your own: {line:.160}",
            fix='--custom module.py, the file that defines it, with TRANSLATIONS = {"its class": function}',
        )
    if "No model config" in said or "model_config" in said:
        return CheckpointError(
            f"{path} has weights alone, no layers", fix="model.save('model.keras') where it was made"
        )
    return CheckpointError(
        f"{path} cannot be loaded by Keras: {line:.160}", fix="save it again with Keras 3: model.save('model.keras')"
    )


def saved_bytes(model: Any) -> bytes:
    """A model in memory as the ``.keras`` file that it saves."""
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.read_bytes()
