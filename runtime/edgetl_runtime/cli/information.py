"""edgetl-run info: what is in a bundle, and what of it runs here."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgetl_runtime import console
from edgetl_runtime.batch_sizes import batch_text
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.cli.options import device_of
from edgetl_runtime.errors import EngineError, MissingDependency
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Manifest, Preprocess, Variant
from edgetl_runtime.placement import FallbackWarning, Placement
from edgetl_runtime.preflight import Obstacle, obstacle
from edgetl_runtime.session import Session
from edgetl_runtime.trial import refusing, try_variants
from edgetl_runtime.verification import Verified, read_verified

__all__ = ["info"]

_MOST_LABELS = 20


def info(arguments: argparse.Namespace) -> int:
    """Show the manifest and, for each variant, whether it runs here and passed verification."""
    bundle = open_bundle(arguments.bundle)
    manifest, failed = bundle.manifest, bundle.failed_checks()
    verified = read_verified(bundle)
    rows: list[list[str]] = []
    lacking: dict[str, str | None] = {}
    variants: list[dict[str, Any]] = []
    obstacles = {variant.id: _absent_or_unable(bundle, variant) for variant in manifest.variants}
    able = [id_ for id_, found in obstacles.items() if found is None]
    died = try_variants(dict.fromkeys(able, bundle.path), **device_of(arguments)).died if arguments.placement else {}
    for variant in manifest.variants:
        found = obstacles[variant.id]
        runs = "runs here" if found is None else " ".join(str(found.error).split())
        if found is not None and isinstance(found.error, MissingDependency):
            lacking[variant.requires.engine] = found.error.fix
            runs = f"needs {variant.requires.engine}"
        places = None
        if arguments.placement and found is None:
            start = refusing(variant.id, died[variant.id]) if variant.id in died else bundle.session
            places, runs = _placed(partial(start, variant.id, **device_of(arguments)))
        checks = failed.get(variant.id, ())
        wrong, costs = [check for check in checks if not check.is_cost], [check for check in checks if check.is_cost]
        verdict = f"; FAILED verification: {'; '.join(map(str, wrong))}" if wrong else ""
        note = f"; missed where verified: {'; '.join(map(str, costs))}" if costs else ""
        cells = [variant.id, console.size(variant.bytes), variant.requires.engine]
        rows.append([*cells, *_shares(verified.get(variant.id)), f"{runs}{verdict}{note}"])
        runnable = {"runnable": found is None, "problem": None if found is None else str(found.error)}
        about: dict[str, Any] = {"id": variant.id, "engine": variant.requires.engine, "bytes": variant.bytes}
        about |= runnable
        about["int8_safe"] = _int8_safe(variant)
        about["verified"] = None if variant.id not in verified else dataclasses.asdict(verified[variant.id])
        missed = {"failed": wrong, "missed_costs": costs}
        variants.append({**about, **{kind: [dataclasses.asdict(check) for check in of] for kind, of in missed.items()}})
        if arguments.placement:
            variants[-1]["placement"] = None if places is None else dataclasses.asdict(places)
    spec = manifest.preprocess
    some = next(iter(verified.values()), None)
    quality = "quality" if some is None else some.quality
    lines = [
        f"{manifest.name}: {manifest.task}, {len(manifest.labels)} labels, schema {manifest.schema}",
        *_wrapped("labels     ", _some([label.name for label in manifest.labels])),
        f"input      {manifest.input.name} {manifest.input.dtype} {list(manifest.input.shape)}",
        f"batch      {_batch_text(manifest)}",
        *(f"output     {spec.name} {spec.dtype} {list(spec.shape)}" for spec in manifest.outputs),
        *(f"feature    {spec.name} {spec.dtype} {list(spec.shape)}" for spec in manifest.features),
        *(f"decoded    {spec.name} {spec.dtype} {list(spec.shape)}" for spec in manifest.decoded),
        *_wrapped("preprocess ", f"{_preprocessing(spec)}; decode {spec.decode}"),
        f"golden     {manifest.golden.n if manifest.golden else 'no'} samples",
        f"verified   {_verified_in_words(some)}",
        "",
        *console.table(["variant", "size", "engine", quality, "agree", "state"], rows),
        *(f"{engine} is not installed here: {fix}" for engine, fix in lacking.items()),
        *_left_out(manifest),
        *_saturating(manifest.variants),
        *_safe(manifest.variants),
    ]
    contract = {key: value for key, value in json.loads(manifest.to_json()).items() if key != "variants"}
    console.show(lines, {"bundle": str(bundle.path), **contract, "variants": variants}, arguments.json)
    return 0


def _absent_or_unable(bundle: Bundle, variant: Variant) -> Obstacle | None:
    absent = bundle.absent(variant.id)
    return obstacle(variant) if absent is None else Obstacle(variant.id, absent)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LABELS
    return ", ".join(names[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")


def _wrapped(head: str, text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(printable(text), 79, initial_indent=head, subsequent_indent=" " * (len(head) or 2))


def _verified_in_words(found: Verified | None) -> str:
    if found is None:
        return "nothing is recorded: edgetl verify BUNDLE --data DIR --record"
    original = "" if found.original is None else f"; the original's {found.quality} is {found.original:.1%}"
    return f"{(found.created or 'undated')[:10]} on {found.n or '?'} photos{original}"


def _shares(found: Verified | None) -> list[str]:
    shares = (None, None) if found is None else (found.top1, found.top1_agreement)
    return ["-" if share is None else f"{share:.1%}" for share in shares]


def _preprocessing(spec: Preprocess) -> str:
    """In words; what is not square says which side is which."""
    (height, width), (rows, columns) = spec.crop, spec.covered
    which = "" if height == width and rows == columns else " (height x width)"
    if spec.mode == "stretch":
        return f"stretched to {height}x{width}{which}, {spec.interpolation}"
    if spec.mode == "letterbox":
        return f"the whole image in {height}x{width}{which}, black borders, {spec.interpolation}"
    resize = f"shorter side to {rows}" if isinstance(spec.resize, int) else f"as small as covers {rows}x{columns}"
    return f"{resize}, {spec.interpolation}; centre crop {height}x{width}{which}"


def _batch_text(manifest: Manifest) -> str:
    """How many images a run takes; the variants that take others are named."""
    own = {variant.id: manifest.batch_of(variant) for variant in manifest.variants}
    others = {id_: batch for id_, batch in own.items() if batch != manifest.input.shape[0]}
    return "; ".join([batch_text(manifest.input.shape[0]), *(f"{id_}: {batch_text(n)}" for id_, n in others.items())])


def _placed(start: Callable[[], Session]) -> tuple[Placement | None, str]:
    """Where the operators of a session run, and that in words; None and why when it cannot be started."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)  # the words say it
            with start() as session:
                placement = session.placement()
    except EngineError as error:
        return None, " ".join(str(error).split())
    places = ", ".join(f"{n} on {device}" for device, n in placement.counts.items())
    fallen = len(placement.fallen_back)
    return placement, f"{places}; {fallen} fallen back" if fallen else places


def _left_out(manifest: Manifest) -> list[str]:
    """What ``edgetl pack`` left out."""
    if manifest.packed is None:
        return []
    left_out = (*manifest.packed.variants, *manifest.packed.files) or ("nothing",)
    return _wrapped("", f"left out when it was packed: {', '.join(left_out)}")


def _int8_safe(variant: Variant) -> bool | None:
    """Whether it was exported with --int8-safe; None where the manifest does not say."""
    chosen = (variant.quantization or {}).get("int8_safe")
    return chosen if isinstance(chosen, bool) else None


def _safe(variants: Sequence[Variant]) -> list[str]:
    """A line that names the variants of --int8-safe: other weights than without it."""
    names = [variant.id for variant in variants if _int8_safe(variant)]
    return [f"exported with --int8-safe, for x86 CPUs without VNNI: {', '.join(names)}"] if names else []


def _saturating(variants: Sequence[Variant]) -> list[str]:
    """A line for every variant whose sums may outgrow 16 bits on some processors."""
    lines = []
    for variant in variants:
        found = (variant.quantization or {}).get("saturation")
        if isinstance(found, dict) and found.get("layers_at_risk"):
            lines.append(
                f"{variant.id}: {found['layers_at_risk']} of {found.get('layers', '?')} layers can saturate on x86 "
                "CPUs without VNNI: export with --int8-safe"
            )
    return lines
