"""Verification: every variant of a bundle against the model it came from, on the same tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl.data.dataset import Sample
from edgetl.tasks.task import Details
from edgetl.verify.diagnose.audit import Fault, audit_bundle, audit_variant, faults_of
from edgetl.verify.diagnose.mixed_images import batch_check, batch_fault
from edgetl.verify.gate.limits import Gate, judge
from edgetl.verify.gate.provenance import contract_of
from edgetl.verify.gate.regression import check_covers, check_same_model, compare_reports
from edgetl.verify.measure.machine import describe_workbench
from edgetl.verify.measure.original_outputs import KeptOutputs
from edgetl.verify.measure.outputs import OriginalModel, Outputs, collect_outputs
from edgetl.verify.options import RunFacts, VerifyOptions
from edgetl.verify.report import NOT_EXPORTED, Check, Data, Finding, Measured, Report, VariantReport, Verdict
from edgetl.verify.steps import Measuring, with_error
from edgetl_export.progress import Track, silent
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import DataError, UsageError, nearest
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.session import Session
from edgetl_runtime.trial import refusing, try_variants
from edgetl_runtime.verification import is_cost

if TYPE_CHECKING:
    from edgetl_export import Captured, Source

__all__ = ["RunFacts", "VerifyOptions", "verify"]


def verify(
    bundle: Path,
    samples: Sequence[Sample],
    reference: OriginalModel,
    options: VerifyOptions | None = None,
    *,
    variants: Sequence[str] | None = None,
    original: Source | Captured | None = None,
    track: Track = silent,
    facts: RunFacts | None = None,
) -> Report:
    """Run images through the original and through the variants of a bundle, and judge.

    A variant that cannot be loaded or run, or that ends the child process in which it is tried first, is reported with
    its error and fails the verdict; the others go on.

    Args:
        bundle: Its folder.
        samples: The images. A label is an index into the manifest's labels, a target what the manifest's task makes of
            it.
        reference: The original: uint8 (N, H, W, C) to its outputs by name.
        options: Gate, baseline, and what is measured.
        variants: Ids; by default all.
        original: The network behind `reference`; layers are compared when it is given.
        track: Shows how far it is.
        facts: What the report says of the run besides.

    Returns:
        The report, with its verdict.

    Raises:
        DataError: There are no samples, or a label is out of range.
        UsageError: `variants` or the gate name a variant that is not there, or the baseline is of another model.
        CheckpointError: The reference does not fit the bundle.
    """
    options, facts = options or VerifyOptions(), facts or RunFacts()
    start = time.monotonic()
    opened = open_bundle(bundle)
    manifest = opened.manifest
    chosen = _choose(manifest, variants, options.gate, facts)
    _check_samples(samples, manifest)
    if options.baseline is not None:
        check_same_model(manifest, options.baseline)
        check_covers([variant.id for variant in chosen], options.baseline)
    died = _died(chosen, bundle, options, facts)
    openers: dict[str, Callable[[], Session]] = {
        variant.id: refusing(variant.id, died[variant.id])
        if variant.id in died
        else partial(opened.session, variant.id, threads=options.threads)
        for variant in chosen
    }
    answers = collect_outputs(openers, reference, samples, manifest, threads=options.threads, track=track)
    measuring = Measuring(opened, bundle, samples, answers, options, original)
    details = measuring.details()
    # After the photos: what a reference is asked first is what it may keep (`RecordingOriginal`).
    faults = _audit(opened, reference, details, [variant.id for variant in chosen])
    names = {place: sample.name for place, sample in enumerate(samples)}
    batches = (batch_fault(id_, sums, names) for id_, sums in answers.batches.items())
    faults += [fault for fault in batches if fault is not None]
    reports = [_compared(variant, answers, details) for variant in chosen]
    reports, disturbances = _with_parts(reports, measuring, options)
    machine = describe_workbench()
    created, data = datetime.now(UTC).isoformat(timespec="seconds"), Data(len(samples), answers.fingerprint)
    reports = _stamped(reports, chosen, Measured(created, data, machine.get("processor")))
    report = Report(
        bundle=printable(bundle.name),
        created=created,
        machine=machine,
        data=data,
        reference=None,
        seconds=dict(facts.seconds),
        variants=(*reports, *(_not_exported(id_, reason) for id_, reason in facts.not_exported.items())),
        verdict=Verdict(False, ()),
        labels={label.id: label.name for label in manifest.labels},
        provenance=dict(manifest.provenance),
        history=tuple(dict(row) for row in facts.history),
        disturbances=disturbances,
        about_photos=(*facts.about_photos, *details.notes),
        contract=contract_of(manifest),
        twins=answers.cross_format,
        left_out=tuple(variant.id for variant in manifest.variants if variant not in chosen),
        task=manifest.task,
        quality=answers.original.compute(),
    )
    report = replace(report, **details.report)
    together = [batch_check(id_, sums) for id_, sums in answers.batches.items()]
    report = _with_findings(_judged(report, options, faults, together, variants), measuring, faults)
    return replace(report, seconds={**facts.seconds, "verify": time.monotonic() - start})


def _choose(manifest: Manifest, wanted: Sequence[str] | None, gate: Gate, facts: RunFacts) -> list[Variant]:
    known = [variant.id for variant in manifest.variants]
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"bundle {manifest.name!r} has no variant {name!r}", fix=nearest(name, known))
    chosen = [variant for variant in manifest.variants if wanted is None or variant.id in wanted]
    for name in gate.variant:
        if name not in (*known, *facts.not_exported):
            raise UsageError(f"the gate limits {name!r}, bundle {manifest.name!r} lacks it", fix=nearest(name, known))
    if gate.reference is not None and gate.reference not in [variant.id for variant in chosen]:
        raise UsageError(
            f"the gate's reference is {gate.reference!r}, which is not verified here",
            fix=nearest(gate.reference, [variant.id for variant in chosen]),
        )
    return chosen


def _died(chosen: Sequence[Variant], bundle: Path, options: VerifyOptions, facts: RunFacts) -> dict[str, str]:
    """By variant id, how those of `chosen` ended a child process that cannot be run here without ending this one."""
    if facts.tried:
        return {}
    able = [variant.id for variant in chosen if obstacle(variant) is None]
    return try_variants(dict.fromkeys(able, bundle), threads=options.threads).died


def _check_samples(samples: Sequence[Sample], manifest: Manifest) -> None:
    if not samples:
        raise DataError("there are no images to verify with", fix="pass a folder with one folder of photos per label")
    for sample in samples:
        if not 0 <= sample.label < len(manifest.labels):
            raise DataError(f"{sample.name}: label {sample.label} is not one of the bundle's {len(manifest.labels)}")


def _compared(variant: Variant, answers: Outputs, details: Details) -> VariantReport:
    """A report with engine, size, parity and quality of one variant."""
    engine, version = answers.engines.get(variant.id, (variant.requires.engine, None))
    report = VariantReport(variant.id, variant.target, variant.precision, engine, version, variant.bytes)
    if variant.id in answers.errors:
        return with_error(report, answers.errors[variant.id])
    return replace(
        report,
        parity=answers.parity[variant.id],
        quality=answers.variants[variant.id].compute(answers.original),
        features=answers.features.get(variant.id, ()),
        **details.variants.get(variant.id, {}),
    )


def _with_parts(
    reports: list[VariantReport], measuring: Measuring, options: VerifyOptions
) -> tuple[list[VariantReport], tuple[str, ...]]:
    """`reports` with all that `options` ask for, and what disturbed the measurement."""
    disturbances: tuple[str, ...] = ()
    if options.seconds > 0:
        reports, disturbances = measuring.with_latency(reports)
    if options.measures_memory:
        reports = measuring.with_memory(reports)
    if options.layers:
        reports = measuring.with_layers(reports)
    return reports, disturbances


def _stamped(reports: Sequence[VariantReport], variants: Sequence[Variant], measured: Measured) -> list[VariantReport]:
    """`reports` with the hashes of their files and when they were measured, but for what no engine here can run."""
    by_id = {variant.id: variant for variant in variants}
    return [
        replace(
            report,
            files_sha256={file.path: file.sha256 for file in by_id[report.id].files},
            measured=None if report.error is not None and obstacle(by_id[report.id]) is not None else measured,
        )
        for report in reports
    ]


def _audit(bundle: Bundle, reference: OriginalModel, details: Details, variants: Sequence[str]) -> list[Fault]:
    """What no comparison of answers shows: each is a check that fails. Raises `BundleError` for damaged samples."""
    # Answers that were kept may be those of other images than the golden samples.
    faults = [*audit_bundle(bundle, None if isinstance(reference, KeptOutputs) else reference)]
    faults += faults_of(details.faults, variants)
    faults += [fault for variant in variants for fault in audit_variant(bundle, variant)]
    return [fault for fault in faults if fault.check.variant in variants]


def _judged(
    report: Report,
    options: VerifyOptions,
    faults: Sequence[Fault],
    passed: Sequence[Check],
    asked: Sequence[str] | None,
) -> Report:
    """`report` with its verdict: the gate's limits, the faults, what `passed` beside them, and the changes since the
    baseline."""
    checks = [*(fault.check for fault in faults), *(check for check in passed if check.passed)]
    if options.baseline is not None:
        comparison, since = compare_reports(report, options.baseline, only=asked)
        report = replace(report, baseline=comparison)
        checks += since
    return replace(report, verdict=judge(report.variants, options.gate, task=report.task, also=checks))


def _with_findings(report: Report, measuring: Measuring, faults: Sequence[Fault]) -> Report:
    """`report` with the causes of its failures."""
    known: dict[str, list[Finding]] = {}
    for fault in faults:
        known.setdefault(fault.check.variant, []).append(fault.finding)
    # What is only too slow or too large computes what it should: there is no cause to look for in its answers.
    failed = {check.variant for check in report.verdict.failed if not is_cost(check.what)}
    return replace(report, variants=tuple(measuring.with_findings(report.variants, failed, known)))


def _not_exported(variant_id: str, reason: str) -> VariantReport:
    target, _, precision = variant_id.partition(".")
    return VariantReport(variant_id, target, precision, error=f"{NOT_EXPORTED}: {reason}")
