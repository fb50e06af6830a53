"""What `edgetl inspect BUNDLE --layers` finds: where each variant first parts from the original, and why.

The original is the checkpoint that the bundle keeps. Variants that could not be exported are narrowed down to the
smallest module that their converter refuses.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgetl.data.dataset import Sample
from edgetl.verify.bundle import REFERENCE, source_of
from edgetl.verify.diagnose.audit import audit_variant
from edgetl.verify.diagnose.diagnosis import Evidence, diagnose
from edgetl.verify.layers.layer_error import find_suspects
from edgetl.verify.layers.parting import find_place
from edgetl.verify.measure.outputs import collect_outputs
from edgetl.verify.report import NOT_EXPORTED, Finding, LayerError, VariantReport
from edgetl_export.progress import silent
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.console import table
from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import BundleError, CheckpointError, EdgetlError, MissingDependency, UsageError, nearest
from edgetl_runtime.escaping import json_value, printable
from edgetl_runtime.preprocess import ImageSource, preprocess
from edgetl_runtime.trial import refusing, try_variants
from edgetl_runtime.verification import LARGEST_REPORT

if TYPE_CHECKING:
    from edgetl_export import Source

__all__ = ["LayerInspection", "Unconverted", "VariantInspection", "inspect_layers"]

_IMAGES, _IMAGES_FOR_LAYERS = 12, 4
_AROUND = 2
_REPORT = "report.json"


@dataclass(frozen=True)
class VariantInspection:
    """One variant beside the original.

    ``agreement`` (0 to 1) and ``sqnr_db`` are of the logits. ``parts_at`` is the first layer that goes wrong, beyond
    what its precision costs in the other variants, or whose weights are not what they should be; None in a sound one.
    ``findings`` are causes that were recognised. ``error`` says why there are no layers.
    """

    id: str
    agreement: float | None = None
    sqnr_db: float | None = None
    parts_at: LayerError | None = None
    layers: tuple[LayerError, ...] = ()
    suspects: tuple[LayerError, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Unconverted:
    """A variant that was not exported: ``path`` is the smallest module that fails alone, None when none does."""

    id: str
    path: str | None
    error: str


@dataclass(frozen=True)
class LayerInspection:
    """All variants that were looked at, over ``n`` images, in ``seconds``."""

    bundle: str
    n: int
    seconds: float
    variants: tuple[VariantInspection, ...]
    unconverted: tuple[Unconverted, ...] = ()

    def lines(self) -> list[str]:
        """For people: a paragraph for every variant, the layers around the one where it parts."""
        said = [
            f"{self.bundle}: {len(self.variants)} variants beside the original, {self.n} images, {self.seconds:.0f} s"
        ]
        for variant in self.variants:
            said += ["", *_paragraph(variant)]
        for missing in self.unconverted:
            where = (
                "no module fails alone"
                if missing.path is None
                else f"{missing.path or 'the whole network'} fails alone"
            )
            said += ["", f"{missing.id}  not converted: {where}", f"  {missing.error}"]
        return said

    def to_json(self) -> str:
        """Everything that was found, indented."""
        return json.dumps(json_value(dataclasses.asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)


def inspect_layers(
    bundle: Path,
    *,
    variants: tuple[str, ...] | None = None,
    images: Sequence[ImageSource] | None = None,
) -> LayerInspection:
    """Hold the layers of `variants` (by default all) against the original's on `images` (by default golden samples).

    A few of the images are taken. Variants that the bundle's report says could not be exported, or that are asked for
    and missing, are bisected. Raises `CheckpointError` when the bundle keeps no checkpoint, `UsageError` for an unknown
    variant or no images, `MissingDependency` when torch or a converter is not installed.
    """
    start = time.monotonic()
    opened = open_bundle(bundle)
    source = _source(bundle, opened)
    missing = _not_exported(opened)
    present = [variant.id for variant in opened.manifest.variants]
    for name in variants or ():
        if name not in (*present, *missing):
            raise UsageError(f"bundle {opened.manifest.name!r} has no variant {name!r}", fix=nearest(name, present))
    chosen = [name for name in present if variants is None or name in variants]
    samples = _samples(opened, images)
    found = _inspected(opened, chosen, source, samples)
    failing = {name: reason for name, reason in missing.items() if variants is None or name in variants}
    unconverted = [_bisected(source, name, reason) for name, reason in failing.items()]
    seconds = time.monotonic() - start
    return LayerInspection(printable(bundle.name), len(samples), seconds, tuple(found), tuple(unconverted))


def _source(bundle: Path, opened: Bundle) -> Source:
    if opened.manifest.packed is not None and not (bundle / REFERENCE).is_dir():
        raise CheckpointError(
            f"{bundle} was packed for a device: the checkpoint that its layers are compared with was left out",
            fix="inspect the bundle that it was packed from",
        )
    if not (bundle / REFERENCE).is_dir():
        raise CheckpointError(
            f"{bundle} does not keep the checkpoint it came from, which its layers are compared with",
            fix="inspect the bundle where it was exported, or copy its reference folder too",
        )
    try:
        from edgetl.models.sources.opening import reopened
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "torch", needed_for="comparing layers", extra="all") from None
    found = reopened(bundle / REFERENCE)
    if found is None:
        raise CheckpointError(
            f"{bundle} came from a network of your own, whose code it does not keep",
            fix="edgetl verify BUNDLE --data DIR --reference module.py:function compares layers too",
        )
    return source_of(found, opened.manifest.name)


def _samples(opened: Bundle, images: Sequence[ImageSource] | None) -> list[Sample]:
    golden = opened.golden() if images is None else None
    sources: Sequence[ImageSource] = golden.images if golden is not None else images or ()
    if not sources:
        raise UsageError("there are no images to compare layers on", fix="--data DIR, a folder of photos")
    # Labels say nothing here: answers are compared with the original's.
    spread = sources[:: max(1, len(sources) // _IMAGES)][:_IMAGES]
    return [Sample(image, 0, str(index)) for index, image in enumerate(spread)]


def _inspected(
    opened: Bundle, chosen: Sequence[str], source: Source, samples: Sequence[Sample]
) -> list[VariantInspection]:
    from edgetl.verify.layers.compare import layer_errors

    died = try_variants(dict.fromkeys(chosen, opened.path), threads=1).died
    openers = {
        name: refusing(name, died[name]) if name in died else partial(opened.session, name, threads=1)
        for name in chosen
    }
    answers = collect_outputs(openers, source.reference(), samples, opened.manifest, threads=1, track=silent)
    few = [preprocess(sample.source, opened.manifest.preprocess) for sample in samples[:_IMAGES_FOR_LAYERS]]
    measured = layer_errors(opened, [name for name in chosen if name not in answers.errors], source, np.stack(few))
    reports = []
    for name in chosen:
        variant, layers = opened.manifest.variant(name), measured.get(name, ())
        report = VariantReport(name, variant.target, variant.precision, variant.requires.engine)
        if name in answers.errors:
            reports.append(replace(report, error=answers.errors[name].what))
        elif isinstance(layers, EdgetlError):
            reports.append(replace(report, parity=answers.parity[name], error=layers.what))
        else:
            parity = answers.parity[name]
            reports.append(replace(report, parity=parity, layers=layers, suspects=find_suspects(layers)))
    found = []
    for report in reports:
        metric = answers.variants.get(report.id)
        logits = None if metric is None else metric.logits
        evidence = Evidence(opened, samples, answers.original.logits, logits, source)
        causes = []
        if report.id not in died:  # its engine is asked for what is in the file, too
            causes = [fault.finding for fault in audit_variant(opened, report.id)] + list(diagnose(report, evidence))
        # Both know coarse weights; the layers know the modules they belong to.
        by_cause = {finding.cause: finding for finding in causes}
        found.append(_one(report, reports, tuple(by_cause.values())))
    return found


def _one(report: VariantReport, reports: Sequence[VariantReport], causes: tuple[Finding, ...]) -> VariantInspection:
    return VariantInspection(
        id=report.id,
        agreement=None if report.parity is None else report.parity.decided_alike,
        sqnr_db=None if report.parity is None else report.parity.sqnr_db,
        parts_at=find_place(report, reports),
        layers=report.layers,
        suspects=report.suspects,
        findings=causes,
        error=report.error,
    )


def _not_exported(opened: Bundle) -> dict[str, str]:
    """By variant id the reason, of those that the bundle's report has and the bundle has not."""
    from edgetl_export.targets import ALL_PRECISIONS, TARGETS

    known = {f"{target}.{precision}" for target in TARGETS for precision in ALL_PRECISIONS}
    try:
        rows = parse(opened.read(_REPORT, limit=LARGEST_REPORT))["variants"]
        return {
            str(row["id"]): str(row["error"])
            for row in rows
            if isinstance(row, Mapping) and str(row.get("error")).startswith(NOT_EXPORTED) and str(row["id"]) in known
        }
    except (BundleError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _bisected(source: Source, name: str, reason: str) -> Unconverted:
    from edgetl.verify.diagnose.bisect import bisect_conversion
    from edgetl_export.targets import CALIBRATED, check_installed

    target, _, precision = name.partition(".")
    check_installed((target,))
    # Integers are found for a model that is converted: what cannot be converted fails as floats too.
    piece = bisect_conversion(source, target, "fp32" if precision in CALIBRATED else precision)
    return Unconverted(name, None, reason) if piece is None else Unconverted(name, piece.path, piece.error)


def _paragraph(variant: VariantInspection) -> list[str]:
    if variant.agreement is None:
        said = [f"{variant.id}  cannot be run: {variant.error}"]
    else:
        logits = f"{variant.id}  {variant.agreement:.1%} agree, logits {variant.sqnr_db:.1f} dB"
        logits += f", {len(variant.layers)} layers"
        if variant.error is not None:
            said = [f"{logits}: {variant.error}"]
        elif variant.parts_at is None:
            said = [f"{logits}: no layer goes wrong"]
        else:
            parts = variant.parts_at
            said = [f"{logits}: parts from the original at {parts.module}, {parts.drop_db:.0f} dB lost"]
            said += [f"  {line}" for line in _around(variant.layers, parts)]
    for finding in variant.findings:
        said += [f"  cause: {finding.cause}", f"    {finding.evidence}", f"    fix: {finding.fix}"]
    return said


def _around(layers: Sequence[LayerError], parts: LayerError) -> list[str]:
    place = next(index for index, layer in enumerate(layers) if layer.node == parts.node)
    rows = [
        (
            f"{'>' if layer.node == parts.node else ' '} {layer.module}",
            f"{layer.sqnr_db:.1f}",
            f"{layer.drop_db:.1f}",
            f"{layer.range[0]:.3g} to {layer.range[1]:.3g}",
            f"{layer.original_range[0]:.3g} to {layer.original_range[1]:.3g}",
            f"{layer.clipped:.1%}",
            layer.weights or "",
        )
        for layer in layers[max(0, place - _AROUND) : place + _AROUND + 1]
    ]
    return table(("layer", "SQNR dB", "lost dB", "range", "original's range", "clipped", "weights"), rows)
