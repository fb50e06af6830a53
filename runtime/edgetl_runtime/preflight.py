"""What keeps a variant from running on this machine, found without importing an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from edgetl_runtime.engines import ENGINES, EngineInfo, Library, engine_info, missing
from edgetl_runtime.errors import EdgetlError, EngineError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Requires, Variant

__all__ = ["BUILT_FOR_NUMPY_1", "Obstacle", "obstacle"]

BUILT_FOR_NUMPY_1: Mapping[str, str] = {
    "onnxruntime": "1.18.1",
    "ai_edge_litert": "1.0.1",
    "tflite_runtime": "2.14.0",
    "openvino": "2024.3.0",
}
"""By library the last version that does not run with numpy 2, though pip installs the two together.

Found by tests/matrix/engine_versions.py, 2026-11-22: what runs with numpy 1 alone ends in an exception of its own.
"""


@dataclass(frozen=True)
class Obstacle:
    """Why a variant cannot run on this machine, and what would change that."""

    variant: str
    error: EdgetlError


def obstacle(variant: Variant) -> Obstacle | None:
    """What keeps `variant` from running here, None if nothing.

    That is an engine which is unknown, not installed, older than the variant was ever seen to run with, or built for
    another numpy than the one that is installed. A version that says nothing in numbers is taken as good.
    """
    error = _wrong_with(variant)
    return None if error is None else Obstacle(variant.id, error)


def _wrong_with(variant: Variant) -> EdgetlError | None:
    requires = variant.requires
    if requires.engine not in ENGINES:
        return EngineError(
            f"variant {variant.id} needs engine {requires.engine!r}, which this edgetl does not know",
            fix="pip install --upgrade edgetl",
        )
    info = engine_info(requires.engine)
    library = info.library()
    version = None if library is None else library.version()
    if library is None or version is None:
        return missing(requires.engine)
    least = _least(requires, info, library)
    if least is not None and _is_older(version, least):
        name = _distribution(library)
        return EngineError(
            f"variant {variant.id} needs {name} {least} or newer, {version} is installed",
            fix=f'pip install --upgrade "{name}>={least}"',
        )
    if _is_built_for_numpy_1(library, version) and not _is_older(np.__version__, "2"):
        name = _distribution(library)
        return EngineError(
            f"variant {variant.id} cannot run: {name} {version} was built for numpy 1, {np.__version__} is installed",
            fix='pip install "numpy<2"',
        )
    return None


def _least(requires: Requires, info: EngineInfo, library: Library) -> str | None:
    """The least version of `library`; ``min_version`` speaks of the engine's first."""
    first = requires.min_version if library == info.libraries[0] else None
    return requires.libraries.get(library.module, first)


def _distribution(library: Library) -> str:
    """The one that brings `library` here: the GPU's package is not to be replaced by the CPU's."""
    import importlib.metadata  # here: it takes 16 ms to import, and most variants have no obstacle

    for name in library.distributions:
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            return name
    return library.distributions[0]


def _is_built_for_numpy_1(library: Library, version: str) -> bool:
    last = BUILT_FOR_NUMPY_1.get(library.module)
    return last is not None and bool(_numbers(version)) and not _is_older(last, version)


def _is_older(version: str, than: str) -> bool:
    """Whether `version` comes before `than`, by their numbers; False when one of them has none."""
    have, want = _numbers(version), _numbers(than)
    return bool(have and want) and have < want


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that `version` begins with, without zeros at their end: 2.14 is 2.14.0."""
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,9}", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
