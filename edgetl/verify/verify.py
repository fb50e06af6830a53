"""Verification: every variant of a bundle against the model it came from, on the same tensors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgetl.data import Sample
from edgetl.verify.accuracy import Accuracy, score
from edgetl.verify.answers import Answers, Images, ReferenceModel, collect_answers
from edgetl.verify.fidelity import LayerFidelity, find_suspects
from edgetl.verify.gate import Gate, judge
from edgetl.verify.latency import Latency, LatencyOptions, measure_latency, median_preprocess_ms
from edgetl.verify.layers import layer_fidelity
from edgetl.verify.machine import describe_workbench
from edgetl.verify.memory import measure_memory
from edgetl.verify.parity import compare
from edgetl.verify.report import Data, Report, VariantReport
from edgetl_export import Captured, Source
from edgetl_export.progress import Track, silent
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import DataError, EdgetlError, UsageError, nearest
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preprocess import preprocess

__all__ = ["RunFacts", "VerifyOptions", "verify"]

_IMAGES_FOR_PREPROCESS_TIME = 16
_IMAGES_FOR_LAYERS = 4
_EQUAL_ENOUGH_DB = 80.0
"""Logits nearer to the original's than this leave nothing to look for in the layers."""


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    ``threads`` per session; ``latency_seconds`` per variant, 0 to leave latency out; ``memory`` measures the peak of
    a fresh process for each variant, which takes a second or two each; ``layers`` compares layer by layer those
    variants whose logits are not practically equal, when the original network is at hand; ``gate`` is what the report
    is held against.
    Raises `UsageError` for fewer than one thread or less than no time.
    """

    threads: int = 1
    latency_seconds: float = 1.0
    memory: bool = False
    layers: bool = True
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        if self.threads < 1 or self.latency_seconds < 0:
            raise UsageError(
                f"cannot verify with {self.threads} threads and {self.latency_seconds} s of latency runs",
                fix="threads >= 1, seconds >= 0",
            )


@dataclass(frozen=True)
class RunFacts:
    """What happened before verification and belongs in its report.

    ``seconds`` by stage, the training ``history`` (one dictionary per epoch), and ``not_exported``: by variant id the
    reason why there is no such file. Those variants are reported and fail the verdict.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    not_exported: Mapping[str, str] = field(default_factory=dict)


def verify(
    bundle: Path,
    samples: Sequence[Sample],
    reference: ReferenceModel,
    options: VerifyOptions | None = None,
    *,
    variants: Sequence[str] | None = None,
    original: Source | Captured | None = None,
    track: Track = silent,
    facts: RunFacts | None = None,
) -> Report:
    """Run `samples` through `reference` and through `variants` of `bundle` (by default all), and judge.

    `original` is the network behind `reference`; layers are compared when it is given.
    A sample's label is an index into the manifest's labels. A variant that cannot be loaded or run is reported with
    its error and fails the verdict; the others go on.
    Raises `DataError` when there are no samples or a label is out of range, `UsageError` when `variants` or the gate
    name a variant that is not there, `CheckpointError` when the reference does not fit the bundle.
    """
    options, facts = options or VerifyOptions(), facts or RunFacts()
    start = time.monotonic()
    opened = open_bundle(bundle)
    manifest = opened.manifest
    chosen = _choose(manifest, variants, options.gate, facts)
    _check_samples(samples, manifest)
    openers = {variant.id: partial(opened.session, variant.id, threads=options.threads) for variant in chosen}
    answers = collect_answers(openers, reference, samples, manifest, threads=options.threads, track=track)
    accuracy, reports = _compare_and_score(chosen, answers, samples, manifest)
    if options.latency_seconds > 0:
        reports = _with_latency(reports, opened, samples, answers.first_image, options)
    if options.memory:
        reports = [_with_memory(report, bundle, options.threads) for report in reports]
    if options.layers and original is not None:
        reports = _with_layers(reports, opened, samples, original, options.threads)
    reports += [_not_exported(variant_id, reason) for variant_id, reason in facts.not_exported.items()]
    return Report(
        bundle=bundle.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_workbench(),
        data=Data(n=len(samples), fingerprint=answers.fingerprint),
        reference=accuracy,
        seconds={**facts.seconds, "verify": time.monotonic() - start},
        variants=tuple(reports),
        verdict=judge(reports, options.gate),
        labels={label.id: label.name for label in manifest.labels},
        provenance=dict(manifest.provenance),
        history=tuple(dict(row) for row in facts.history),
    )


def _choose(manifest: Manifest, wanted: Sequence[str] | None, gate: Gate, facts: RunFacts) -> list[Variant]:
    known = [variant.id for variant in manifest.variants]
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"bundle {manifest.name!r} has no variant {name!r}", fix=nearest(name, known))
    for name in gate.variant:
        if name not in (*known, *facts.not_exported):
            raise UsageError(f"the gate limits {name!r}, bundle {manifest.name!r} lacks it", fix=nearest(name, known))
    return [variant for variant in manifest.variants if wanted is None or variant.id in wanted]


def _check_samples(samples: Sequence[Sample], manifest: Manifest) -> None:
    if not samples:
        raise DataError("there are no images to verify with", fix="pass a folder with one folder of photos per label")
    for sample in samples:
        if not 0 <= sample.label < len(manifest.labels):
            raise DataError(f"{sample.name}: label {sample.label} is not one of the bundle's {len(manifest.labels)}")


def _compare_and_score(
    variants: Sequence[Variant], answers: Answers, samples: Sequence[Sample], manifest: Manifest
) -> tuple[Accuracy, list[VariantReport]]:
    """Accuracy of the reference, and a report with engine, size, parity and accuracy for each variant."""
    truth = np.array([sample.label for sample in samples], dtype=np.int64)
    labels = [label.id for label in manifest.labels]
    original = score(answers.reference, truth, labels=labels)
    reports = []
    for variant in variants:
        engine, version = answers.engines.get(variant.id, (variant.requires.engine, None))
        report = VariantReport(variant.id, variant.target, variant.precision, engine, version, variant.bytes)
        if variant.id in answers.errors:
            report = _with_error(report, answers.errors[variant.id])
        else:
            logits = answers.variants[variant.id]
            report = replace(
                report,
                parity=compare(answers.reference, logits),
                accuracy=score(logits, truth, labels=labels, reference_top1=original.top1),
            )
        reports.append(report)
    return original, reports


def _with_latency(
    reports: list[VariantReport], bundle: Bundle, samples: Sequence[Sample], image: Images, options: VerifyOptions
) -> list[VariantReport]:
    """Add the latency of the variants that work; one that fails here gets its error."""
    openers = {
        report.id: partial(bundle.session, report.id, threads=options.threads, verify=False)
        for report in reports
        if report.error is None
    }
    sources = [sample.source for sample in samples[:_IMAGES_FOR_PREPROCESS_TIME]]
    timing = LatencyOptions(
        threads=options.threads,
        seconds=options.latency_seconds,
        preprocess_ms=median_preprocess_ms(sources, bundle.manifest.preprocess),
    )
    measured = measure_latency(openers, {bundle.manifest.input.name: image}, timing)
    return [_add(report, measured.get(report.id)) for report in reports]


def _add(report: VariantReport, measured: Latency | EdgetlError | None) -> VariantReport:
    if isinstance(measured, EdgetlError):
        return _with_error(report, measured)
    return report if measured is None else replace(report, latency=measured)


def _with_memory(report: VariantReport, bundle: Path, threads: int) -> VariantReport:
    if report.error is not None:
        return report
    try:
        return replace(report, memory=measure_memory(bundle, report.id, threads=threads))
    except EdgetlError as error:
        return _with_error(report, error)


def _with_layers(
    reports: list[VariantReport], bundle: Bundle, samples: Sequence[Sample], original: Source | Captured, threads: int
) -> list[VariantReport]:
    """Add layers and suspects to the variants that work and differ. Failing here is no fault of the variant's."""
    worth = [
        report.id
        for report in reports
        if report.error is None and report.parity and report.parity.sqnr_db < _EQUAL_ENOUGH_DB
    ]
    if not worth:
        return reports
    spread = samples[:: max(1, len(samples) // _IMAGES_FOR_LAYERS)][:_IMAGES_FOR_LAYERS]
    images = np.stack([preprocess(sample.source, bundle.manifest.preprocess) for sample in spread])
    measured = layer_fidelity(bundle, worth, original, images, threads=threads)
    return [_add_layers(report, measured.get(report.id, ())) for report in reports]


def _add_layers(report: VariantReport, measured: tuple[LayerFidelity, ...] | EdgetlError) -> VariantReport:
    if isinstance(measured, EdgetlError):
        return replace(report, layers_error=measured.what)
    return replace(report, layers=measured, suspects=find_suspects(measured))


def _with_error(report: VariantReport, error: EdgetlError) -> VariantReport:
    return replace(report, error=error.what if error.fix is None else f"{error.what} (fix: {error.fix})")


def _not_exported(variant_id: str, reason: str) -> VariantReport:
    target, _, precision = variant_id.partition(".")
    return VariantReport(variant_id, target, precision, error=f"not exported: {reason}")
