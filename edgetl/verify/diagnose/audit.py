"""Is everything in the bundle what it says it is? Faults that no comparison of answers shows, as failed checks.

Original and variant get the same pixels and are judged by the same labels, so pixels or labels that are wrong for
both, or a file that is another one in disguise, leave parity as it was. Here are held against each other: the golden
samples' pixels and the manifest's preprocessing, the file's own manifest and the bundle's, stored weights and the
precision. What a task holds against the photos' labels is its own (`edgetl.tasks.task.Details.faults`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.models.image_size import height_and_width, size_text
from edgetl.tasks.task import TaskFault
from edgetl.verify.layers.file_weights import FileWeights, read_file_weights
from edgetl.verify.report import Check, Finding
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import BundleError, EngineError, MissingDependency
from edgetl_runtime.golden import GoldenSamples
from edgetl_runtime.manifest import MODES, Label, Manifest, Preprocess, Variant
from edgetl_runtime.modelfile import embedded_text
from edgetl_runtime.preprocess import preprocess

__all__ = ["Fault", "audit_bundle", "audit_variant", "faults_of"]

OriginalModel = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

_AGAIN = "export the bundle again"
_SAME_MODEL_DB = 40.0
"""Another machine computes float32 in another order, 100 dB; another model is at 0."""
_LEAST_INTEGER = 0.1
_IN_INTEGERS = ("int8", "w8", "w8a16")


@dataclass(frozen=True)
class Fault:
    """A check that did not hold, for the verdict, and what it means, for the reader."""

    check: Check
    finding: Finding


def faults_of(task: Iterable[TaskFault], variants: Sequence[str]) -> tuple[Fault, ...]:
    """What the task found wrong with labels or photos: a failed check of each of `variants`."""
    return tuple(
        Fault(
            Check(id_, found.what, found.limit, found.value, False, found.relation, note=found.cause),
            Finding(found.cause, found.evidence, found.fix),
        )
        for found in task
        for id_ in variants
    )


def audit_bundle(
    bundle: Bundle, reference: OriginalModel | None = None, variants: Sequence[str] | None = None
) -> tuple[Fault, ...]:
    """What is wrong with all variants alike: each of `variants` (by default all) has the checks that fail.

    ``preprocessing``: the golden images, prepared as the manifest says, differ from the golden tensors (value: grey
    levels, limit 0). ``golden``: `reference` answers otherwise for them than the original did (value: SQNR in dB).
    A bundle without golden samples has none of these. Raises `BundleError` when they are damaged.
    """
    golden = bundle.golden()
    if golden is None or not golden.names:
        return ()
    ids = [variant.id for variant in bundle.manifest.variants] if variants is None else list(variants)
    found = _pixels(golden, bundle.manifest.preprocess)
    about = [] if found is None else [("preprocessing", 0.0, "<=", *found)]
    if reference is not None:
        output = bundle.manifest.output.name
        near = sqnr_db(golden.outputs[output], reference(golden.tensors))
        if near < _SAME_MODEL_DB:
            evidence = f"its {output} for the {len(golden.names)} golden samples are {near:.0f} dB near the stored ones"
            fix = "verify with the checkpoint that the bundle was exported from: --reference CHECKPOINT"
            value = float(np.clip(near, -200, 200))
            finding = Finding("the reference is not the model that the bundle came from", evidence, fix)
            about.append(("golden", _SAME_MODEL_DB, ">=", value, finding))
    return tuple(
        Fault(Check(id_, what, limit, value, False, relation, note=finding.cause), finding)
        for what, limit, relation, value, finding in about
        for id_ in ids
    )


def _pixels(golden: GoldenSamples, spec: Preprocess) -> tuple[float, Finding] | None:
    """The largest difference in grey levels and what explains it; None when every pixel is equal."""
    made = [preprocess(image, spec) for image in golden.images]
    largest = _difference(made, list(golden.tensors))
    if largest == 0:
        return None
    near = [(_difference(pixels, expected), cause) for pixels, expected, cause in _prepared(golden, spec, made)]
    least, cause = min(near, key=lambda item: item[0])
    evidence = f"{len(made)} golden images differ from their tensors by up to {largest:.0f} grey levels"
    fix = "write the preprocessing that the checkpoint was trained with into the manifest, or export again"
    if least > 0:
        said = "the preprocessing is not the one that the golden samples were made with"
        return largest, Finding(said, f"{evidence}; no other filter, crop or colour order explains it", fix)
    return largest, Finding(cause, f"{evidence}; treated so, by none", fix)


def _prepared(
    golden: GoldenSamples, spec: Preprocess, made: Sequence[npt.NDArray[np.uint8]]
) -> Iterator[tuple[Sequence[npt.NDArray[np.uint8]], Any, str]]:
    """Pixels, what they are to equal, and what is wrong if they do."""
    tensors = list(golden.tensors)
    if spec.channels == 3:
        yield [pixels[..., ::-1] for pixels in made], tensors, "the colour order of the golden tensors is BGR"
    other = {"bilinear": "bicubic", "bicubic": "bilinear"}.get(spec.interpolation, "bilinear")
    others: dict[str, dict[str, Any]] = {
        f"the resize filter is {spec.interpolation} where it was {other}": {"interpolation": other}
    }
    for resize in _resizes(spec) if spec.mode == "crop" else ():
        cause = f"the image is resized to {_pixels_of(spec.resize)} where it was {_pixels_of(resize)}"
        others[cause] = {"resize": resize}
    for mode in (mode for mode in MODES[1:] if mode != spec.mode):  # last: a photo of the right size is the same in all
        cause = f"the image is brought to its size by {spec.mode} where it was {mode}"
        others[cause] = {"mode": mode, "resize": 0}
    for cause, change in others.items():
        changed = dataclasses.replace(spec, **change)
        yield [preprocess(image, changed) for image in golden.images], tensors, cause
    for rows in (-1, 0, 1):
        for columns in (-1, 0, 1):
            moved = [_overlap(pixels, rows, columns) for pixels in made]
            kept = [_overlap(pixels, -rows, -columns) for pixels in tensors]
            yield moved, kept, f"the centre crop is off by one pixel ({rows} rows, {columns} columns)"


def _resizes(spec: Preprocess) -> list[int | tuple[int, int]]:
    """What the images may have been resized to instead: a little more or less, what others do, the sides exchanged."""
    usual = [min(spec.crop), 256, 232]
    found: list[int | tuple[int, int]]
    if isinstance(spec.resize, int):
        found = [*range(spec.resize - 4, spec.resize + 5), *usual]
    else:
        height, width = spec.resize
        found = [*usual, max(spec.crop), height, width, spec.crop, (width, height)]
        found += [(height + more, width + round(more * width / height)) for more in range(-4, 5)]
    return [size for size in dict.fromkeys(found) if size != spec.resize and min(height_and_width(size)) > 0]


def _pixels_of(size: int | tuple[int, int]) -> str:
    return f"{size_text(size)} pixels"


def _overlap(pixels: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return pixels[max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]


def _difference(made: Sequence[npt.NDArray[np.uint8]], expected: Sequence[npt.NDArray[np.uint8]]) -> float:
    largest = 0
    for pixels, other in zip(made, expected, strict=True):
        if pixels.shape != other.shape:
            return 255.0
        largest = max(largest, int(np.abs(pixels.astype(np.int16) - other.astype(np.int16)).max()))
    return float(largest)


def audit_variant(bundle: Bundle, variant_id: str) -> tuple[Fault, ...]:
    """What a variant's file says of itself against what the bundle says of it.

    ``manifest``: the manifest inside the file differs. ``weights``: a variant in integers stores less than a tenth of
    its weights so (value: the share), or in another grain or fewer bits than the manifest says. A file that carries no
    manifest, or whose weights cannot be read here, has no such check. Never raises for a damaged file: that it
    cannot be loaded is another check.
    """
    variant = bundle.manifest.variant(variant_id)
    try:
        model = bundle.model(variant_id, verify=False)
        suffix = "." + variant.files[0].path.rpartition(".")[2]
        inside = Manifest.from_json(embedded_text(model.main, suffix=suffix, where=model.name), where=model.name)
    except (BundleError, EngineError, KeyError):
        inside = None
    faults = [] if inside is None else list(_other_manifest(bundle.manifest, inside, variant))
    if variant.precision not in _IN_INTEGERS:
        return tuple(faults)
    try:
        weights = read_file_weights(variant.requires.engine, bundle.model(variant_id, verify=False))
    except (BundleError, EngineError, MissingDependency):
        return tuple(faults)
    return (*faults, *_other_weights(weights, variant))


def _other_manifest(outside: Manifest, inside: Manifest, variant: Variant) -> Iterator[Fault]:
    about = {
        "labels": (outside.labels, inside.labels),
        "preprocessing": (outside.preprocess, inside.preprocess),
        "normalisation": (outside.normalize, inside.normalize),
        "input": (outside.input, inside.input),
        "output": (outside.output, inside.output),
        "features": (outside.features, inside.features),
        "decoder": (outside.decoder, inside.decoder),
        "decoded outputs": (outside.decoded, inside.decoded),
        "name of the model": (outside.name, inside.name),
        "checkpoint": tuple(part.provenance.get("checkpoint_sha256") for part in (outside, inside)),
        "variant": (variant.id, inside.variants[0].id),
        "precision": (variant.precision, inside.variants[0].precision),
    }
    other = {name: pair for name, pair in about.items() if pair[0] != pair[1]}
    if not other:
        return
    name, (ours, theirs) = next(iter(other.items()))
    cause = (
        f"the file says it is {inside.variants[0].id}"
        if set(other) <= {"variant", "precision"}
        else "the manifest is that of another model"
        if "checkpoint" in other
        else f"the manifest was changed after the export: {', '.join(other)}"
    )
    finding = Finding(
        cause,
        f"inside {variant.files[0].path} and in manifest.json differ: {', '.join(other)} "
        f"({name}: {_brief(theirs)}, manifest.json {_brief(ours)})",
        "put the files and the manifest of one export together, or export the bundle again",
    )
    yield Fault(Check(variant.id, "manifest", None, None, False, note=finding.cause), finding)


def _brief(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Label):
        value = [label.id for label in value][:4]
    return f"{json.dumps(value)[:40] if isinstance(value, (list, str)) else str(value)[:60]}"


def _other_weights(layers: Mapping[str, FileWeights], variant: Variant) -> Iterator[Fault]:
    total = sum(weights.values.size for weights in layers.values())
    if not total:
        return
    share = sum(weights.values.size for weights in layers.values() if weights.is_integer) / total
    said = str((variant.quantization or {}).get("weights", ""))
    coarse = [name for name, weights in layers.items() if weights.is_per_tensor]
    few = [name for name, weights in layers.items() if weights.is_four_bit]
    if share < _LEAST_INTEGER:
        dtypes = ", ".join(sorted({weights.dtype for weights in layers.values()}))
        finding = Finding(
            f"the file says {variant.precision} and holds float weights: a float model renamed",
            f"{share:.0%} of {total} weights are integers, the others are {dtypes}",
            f"export {variant.id} again: edgetl export --precisions {variant.precision}",
        )
        yield Fault(Check(variant.id, "weights", _LEAST_INTEGER, share, False, ">=", finding.cause), finding)
    if coarse and "per output channel" in said:
        finding = Finding(
            "weights have one scale per tensor",
            f"{len(coarse)} of {len(layers)} layers ({', '.join(coarse[:3])}) share one scale; the manifest says "
            f"{said!r}",
            "export the variant again with edgetl export; with another converter ask for per-channel weights",
        )
        yield Fault(Check(variant.id, "weights", 0.0, float(len(coarse)), False, "<=", finding.cause), finding)
    if few and "int4" not in said:
        finding = Finding(
            "weights of a layer have 4 bits",
            f"{len(few)} of {len(layers)} layers use 16 values or fewer ({', '.join(few[:3])}); the manifest says 8",
            f"export {variant.id} again: no layer of edgetl's int8 has fewer than 7 bits",
        )
        yield Fault(Check(variant.id, "weights", 0.0, float(len(few)), False, "<=", finding.cause), finding)
