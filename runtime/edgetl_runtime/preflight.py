"""What keeps a variant from running on this machine, found without importing an engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgetl_runtime.engines import ENGINES, engine_info, installed, missing
from edgetl_runtime.errors import EdgetlError, EngineError
from edgetl_runtime.manifest import Variant

__all__ = ["Obstacle", "obstacle"]


@dataclass(frozen=True)
class Obstacle:
    """Why a variant cannot run on this machine, and what would change that."""

    variant: str
    error: EdgetlError


def obstacle(variant: Variant) -> Obstacle | None:
    """What keeps `variant` from running here: an engine that is unknown, not installed or too old. None if nothing."""
    requires = variant.requires
    if requires.engine not in ENGINES:
        unknown = EngineError(
            f"variant {variant.id} needs engine {requires.engine!r}, which this edgetl does not know",
            fix="pip install --upgrade edgetl",
        )
        return Obstacle(variant.id, unknown)
    version = installed(requires.engine)
    if version is None:
        return Obstacle(variant.id, missing(requires.engine))
    info = engine_info(requires.engine)
    preferred = info.libraries[0]
    # The libraries of one engine count their versions differently: min_version speaks of the first.
    if info.library() == preferred and _older(version, requires.min_version):
        old = EngineError(
            f"variant {variant.id} needs {requires.engine} {requires.min_version} or newer, {version} is installed",
            fix=f"pip install --upgrade {preferred.distributions[0]}",
        )
        return Obstacle(variant.id, old)
    return None


def _older(version: str, minimum: str | None) -> bool:
    """Whether `version` comes before `minimum`, by their numbers; False when one of them has none."""
    have, want = _numbers(version), _numbers(minimum or "")
    return bool(have and want) and have < want


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
