"""Which variant to load on this machine."""

from __future__ import annotations

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.engines import ENGINES, engine_info
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import Variant
from edgetl_runtime.preflight import obstacle

__all__ = ["choose_variant"]

_PREFERRED_PRECISIONS = ("int8", "fp16", "fp32")


def choose_variant(bundle: Bundle, *, variant: str | None = None, engine: str = "auto") -> Variant:
    """The variant to load: the one that is named, or the best that can run here and passed verification.

    Best is int8, then fp16, then fp32, then any other; among equals the order of `ENGINES`. A variant that failed a
    check in the bundle's report is taken only when it is named. Raises the `EdgetlError` that says what is missing.
    """
    if engine != "auto":
        engine_info(engine)
    if variant is not None:
        return _named(bundle, variant, engine)
    candidates = [item for item in bundle.manifest.variants if engine in ("auto", item.requires.engine)]
    if not candidates:
        engines = sorted({item.requires.engine for item in bundle.manifest.variants})
        raise EngineError(
            f"{bundle.path} has no variant for engine {engine!r}", fix=f"choose one of: {', '.join(engines)}"
        )
    failed = bundle.failed_checks()
    obstacles = {item.id: obstacle(item) for item in candidates}
    fit = [item for item in candidates if obstacles[item.id] is None and item.id not in failed]
    if fit:
        return min(fit, key=_rank)
    able = [item.id for item in candidates if obstacles[item.id] is None]
    if able:
        reasons = "; ".join(f"{id_}: {failed[id_][0]}" for id_ in able)
        raise EngineError(
            f"every variant of {bundle.path} that can run here failed verification ({reasons})",
            fix="export the bundle again, install another engine, or name one of them as the variant to use it anyway",
        )
    errors = {item.error.what: item.error for item in obstacles.values() if item is not None}
    if len(errors) == 1:
        raise next(iter(errors.values()))
    fixes = list(dict.fromkeys(error.fix for error in errors.values() if error.fix))
    raise EngineError(f"no variant of {bundle.path} can run here: {'; '.join(errors)}", fix="   or   ".join(fixes))


def _named(bundle: Bundle, variant_id: str, engine: str) -> Variant:
    variant = bundle.manifest.variant(variant_id)
    if engine not in ("auto", variant.requires.engine):
        raise EngineError(
            f"variant {variant_id} runs in {variant.requires.engine}, not in {engine}", fix="leave the engine out"
        )
    found = obstacle(variant)
    if found is not None:
        raise found.error
    return variant


def _rank(variant: Variant) -> tuple[int, int]:
    precision = variant.precision
    known = _PREFERRED_PRECISIONS
    return (
        known.index(precision) if precision in known else len(known),
        list(ENGINES).index(variant.requires.engine),
    )
