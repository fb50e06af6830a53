"""What was computed is kept in a file, by one SHA-256 over what decides it: the same is not computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from edgetl.data.dataset import Dataset
from edgetl.models.weights import parse_weights
from edgetl.recipe import Recipe
from edgetl_runtime import __version__
from edgetl_runtime.decoding import decode, parse
from edgetl_runtime.errors import BundleError, OutputError
from edgetl_runtime.escaping import json_value
from edgetl_runtime.files import open_regular, read_regular
from edgetl_runtime.writing import write_file

__all__ = ["json_text", "make_folder", "read_kept", "result_key", "write_kept"]

_SCHEMA = 1


def result_key(recipe: Recipe, dataset: Dataset, *, without: tuple[str, ...] = (), **more: object) -> str:
    """SHA-256 (hex) of the sections of `recipe`, the photos, the weights it starts from, and whatever else decides.

    `without` names sections that do not matter. The photos count by their content, not by their path. A weights file
    counts by its content too: it may change and keep its name. Where training is watched does not count.
    """
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, tensorboard=None))
    weights = parse_weights(recipe.model.weights)
    about = {
        "edgetl": __version__,
        "data": dataset.fingerprint,
        "recipe": {
            name: values for name, values in dataclasses.asdict(recipe).items() if name not in ("data", *without)
        },
        "weights": _digest(weights) if isinstance(weights, Path) else weights,
        **more,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(**fields: Any) -> str:
    """``{"schema": 1, ...}``, indented, always valid: what JSON cannot hold is null. Ends with a newline."""
    return json.dumps(json_value({"schema": _SCHEMA, **fields}), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def make_folder(out: Path) -> None:
    """The folder of a study. Raises `OutputError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}", fix="choose another --out") from error


def write_kept(path: Path, **kept: Any) -> None:
    """Keep a field of values. Raises `OutputError`."""
    make_folder(path.parent)
    write_file(path, json_text(**kept))


def read_kept(path: Path, name: str, kind: Any, *, fix: str) -> Any:
    """The field `name` of what `write_kept` wrote, as `kind`. Raises `OutputError` with `fix`."""
    try:
        fields = parse(read_regular(path))
        return decode(kind, fields[name], name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"cannot read {path}: {error!r}", fix=fix) from error
    except BundleError as error:
        raise OutputError(f"cannot read {path}: {error.what}", fix=fix) from error
