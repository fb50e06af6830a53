"""Keras itself, on the torch backend: TensorFlow is never imported. Files of models, and what is wrong with them."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgetl.models.sources.keras_model.keras_2 import modernise, opens_as_hdf5, version_of
from edgetl.models.sources.own_code import loaded_file
from edgetl_runtime.errors import CheckpointError, MissingDependency, UsageError

__all__ = [
    "Custom",
    "check_is_model",
    "custom_code",
    "in_float32",
    "keras_on_torch",
    "load_model",
    "saved_bytes",
    "with_classes_of",
]

_LAMBDA = "Lambda"
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|function)):? '([^']*)'")
"""How Keras names what is neither its own nor known to it."""


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


def with_classes_of(custom: Custom, model: Any) -> Custom:
    """`custom`, and the user's own classes among the layers of a `model` in memory: its copy is made of them."""
    layers = model._flatten_layers(include_self=False)
    own = {type(layer).__name__: type(layer) for layer in layers if not _is_keras_own(type(layer))}
    return Custom(custom.translations, {**own, **custom.objects})


def _is_keras_own(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("keras", "tf_keras")


def in_float32(model: Any) -> str | None:
    """Let `model` compute in float32 from here on, in place; gives a note where it did not (mixed precision).

    Raises `UsageError` for a model that Keras quantised.
    """
    others: set[str] = set()
    for layer in model._flatten_layers():
        policy = layer.dtype_policy
        if getattr(policy, "quantization_mode", None) is not None:
            raise UsageError(
                f"{layer.name} ({type(layer).__name__}) is quantised by Keras: {policy.name}",
                fix="the model as it was before quantize(): edgetl quantises it",
            )
        if policy.compute_dtype not in ("float32", None) and "float" in policy.compute_dtype:
            others.add(policy.name)
            layer.dtype_policy = "float32"
    for variable in model.variables:
        if others and "float" in variable.dtype and variable.dtype != "float32":
            variable._value.data = variable._value.data.float()
            variable._dtype = "float32"
    return f"its {' and '.join(sorted(others))} is computed in float32" if others else None


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
        if not _is_whole(path):
            raise CheckpointError(
                f"{where} is damaged, cut off, or no file of a Keras model", fix="copy or download it again"
            ) from error
        version = version_of(path)
        if version.startswith("2.") and path.suffix == ".keras":
            raise CheckpointError(
                f"{where} was saved by Keras {version}, in a form that Keras 3 does not read",
                fix="in the program that made it: model.save('model.h5'), then edgetl export model.h5",
            ) from error
        raise _told(where, str(error), type(error).__name__) from error


def _is_whole(path: Path) -> bool:
    """Whether it is a zip archive with a model's configuration, or an HDF5 file that opens."""
    if path.suffix != ".keras":
        return opens_as_hdf5(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _told(path: str, said: str, kind: str) -> CheckpointError | UsageError:
    unknown = _UNKNOWN.search(said)
    line = next((one.strip() for one in said.splitlines() if one.strip()), kind)
    if _LAMBDA in said and ("safe_mode" in said or "unsafe" in said):
        return UsageError(
            f"{path} has a Lambda layer: to load it is to run code that is in the file",
            fix="write it as layers (Rescaling, Activation), or name its translation: --custom module.py, with "
            'TRANSLATIONS = {"Lambda": function}',
        )
    if unknown is not None or "custom" in said.lower():
        return UsageError(
            f"{path} has a layer, a model or a function of your own: {line if unknown is None else unknown[1]:.160}",
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
    """A model in memory as the ``.keras`` file that it saves: of a class of the user's with a graph of layers, that."""
    keras: Any = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth"):
        model = model if _is_keras_own(type(model)) else keras.Model(model.inputs, model.outputs, name=model.name)
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.read_bytes()
