"""What is measured of variants one after the other: latency, memory, layers, causes. Each adds its part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgetl.data.dataset import Sample
from edgetl.data.thumbnails import Thumbnails
from edgetl.tasks import task_of
from edgetl.tasks.task import Details, Thumbnail
from edgetl.verify.diagnose.diagnosis import Evidence, diagnose
from edgetl.verify.gate.limits import checks_of
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.gate.regression import latency_decision
from edgetl.verify.layers.layer_error import find_suspects
from edgetl.verify.measure.latency import Latencies, LatencyOptions, measure_latency, median_preprocess_ms
from edgetl.verify.measure.memory import measure_memory
from edgetl.verify.measure.outputs import Outputs
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Finding, Latency, LayerError, VariantReport
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.preprocess import preprocess

if TYPE_CHECKING:
    from edgetl_export import Captured, Source

__all__ = ["Measuring", "with_error"]

_IMAGES_FOR_PREPROCESS_TIME = 16
_IMAGES_FOR_LAYERS = 4
_EQUAL_ENOUGH_DB = 80.0
"""Logits nearer to the original's than this leave nothing to look for in the layers."""
_PRECISE = 0.05
"""Width of an interval, as a share: a third of the margin that a proposed gate leaves."""


@dataclass(frozen=True, eq=False)
class Measuring:
    """The bundle and the photos, and how they are measured. Most methods give reports with one part more.

    ``answers`` are those of all models to ``samples``; ``original`` is the network behind them, when it is at hand.
    A variant that fails on the way is reported with its error.
    """

    bundle: Bundle
    path: Path
    samples: Sequence[Sample]
    answers: Outputs
    options: VerifyOptions
    original: Source | Captured | None = None

    def details(self) -> Details:
        """What the task says of the outputs: parts of the report, tables, faults of labels or photos."""
        return task_of(self.bundle.manifest.task).details(
            self.answers.original, self.answers.variants, self.samples, self.bundle.manifest, self._thumbnails
        )

    def with_latency(self, reports: Sequence[VariantReport]) -> tuple[list[VariantReport], tuple[str, ...]]:
        """Latencies, measured longer while gate or baseline are undecided; and what disturbed the measurement."""
        openers = {
            report.id: partial(self.bundle.session, report.id, threads=self.options.threads, verify=False)
            for report in reports
            if report.error is None
        }
        sources = [sample.source for sample in self.samples[:_IMAGES_FOR_PREPROCESS_TIME]]
        timing = LatencyOptions(
            threads=self.options.threads,
            seconds=self.options.seconds,
            preprocess_ms=median_preprocess_ms(sources, self.bundle.manifest.preprocess),
            reference=self.options.gate.reference,
            most_times=self.options.latency_times,
        )
        feeds = {self.bundle.manifest.input.name: self.answers.first_image}
        measured: Latencies = measure_latency(openers, feeds, timing, undecided=partial(self._undecided, reports))
        return [_with_latency(report, measured.variants.get(report.id)) for report in reports], measured.disturbances

    def with_memory(self, reports: Sequence[VariantReport]) -> list[VariantReport]:
        """Peak memory and cold start of fresh processes."""
        return [self._with_memory(report) for report in reports]

    def with_layers(self, reports: Sequence[VariantReport]) -> list[VariantReport]:
        """Layers and suspects of the variants that work and differ. Failing here is no fault of the variant's."""
        worth = [
            report.id
            for report in reports
            if report.error is None and report.parity and report.parity.sqnr_db < _EQUAL_ENOUGH_DB
        ]
        if not worth or self.original is None:
            return list(reports)
        # Here, because it imports torch.
        from edgetl.verify.layers.compare import layer_errors

        spread = self.samples[:: max(1, len(self.samples) // _IMAGES_FOR_LAYERS)][:_IMAGES_FOR_LAYERS]
        images = np.stack([preprocess(sample.source, self.bundle.manifest.preprocess) for sample in spread])
        measured = layer_errors(self.bundle, worth, self.original, images, threads=self.options.threads)
        return [_with_layers(report, measured.get(report.id, ())) for report in reports]

    def with_findings(
        self, reports: Sequence[VariantReport], failed: set[str], known: Mapping[str, Sequence[Finding]]
    ) -> list[VariantReport]:
        """What is known already, and for the `failed` variants the causes that are recognised in their answers."""
        with_causes = []
        for report in reports:
            causes = tuple(known.get(report.id, ()))
            if report.id in failed and self._exists(report.id) and self.options.diagnose:
                causes += diagnose(report, self._evidence(report.id))
            # Of the same cause the later one knows more: the diagnosis names the module.
            with_causes.append(replace(report, findings=tuple({finding.cause: finding for finding in causes}.values())))
        return with_causes

    def _exists(self, variant: str) -> bool:
        """Whether the bundle has it: one that could not be exported is in the report all the same."""
        return variant in [entry.id for entry in self.bundle.manifest.variants]

    def _evidence(self, variant: str) -> Evidence:
        return Evidence(
            bundle=self.bundle,
            samples=self.samples,
            reference=self.answers.original.logits,
            logits=None if variant not in self.answers.variants else self.answers.variants[variant].logits,
            original=self.original,
            threads=self.options.threads,
        )

    def _undecided(self, reports: Sequence[VariantReport], latencies: Mapping[str, Latency]) -> set[str]:
        """The variants whose latency neither holds nor misses its limits for sure."""
        baseline = self.options.baseline
        before = {} if baseline is None else {variant.id: variant for variant in baseline.report.variants}
        undecided = set()
        for report in reports:
            if report.id not in latencies:
                continue
            timed = replace(report, latency=latencies[report.id])
            checks = [
                check
                for check in checks_of(timed, self.options.gate, task=self.bundle.manifest.task)
                if QUANTITIES[check.what].kind == "time"
            ]
            since = latency_decision(timed, before[report.id]) if report.id in before else None
            if (
                any(check.undecided for check in checks)
                or (since is not None and since.undecided)
                or (self.options.precise and _is_vague(latencies[report.id]))
            ):
                undecided.add(report.id)
        return undecided

    def _with_memory(self, report: VariantReport) -> VariantReport:
        if report.error is not None:
            return report
        try:
            return replace(report, memory=measure_memory(self.path, report.id, threads=self.options.threads))
        except EdgetlError as error:
            return with_error(report, error)

    def _thumbnails(self, budget: int) -> Thumbnail:
        if not self.options.photos:
            return _no_thumbnail
        return Thumbnails(budget, channels=self.bundle.manifest.preprocess.channels)


def _no_thumbnail(sample: Sample) -> None:
    """A report without photos has their names."""


def with_error(report: VariantReport, error: EdgetlError) -> VariantReport:
    """`report` with what went wrong, and what to do about it."""
    return replace(report, error=error.what if error.fix is None else f"{error.what} (fix: {error.fix})")


def _is_vague(latency: Latency) -> bool:
    if (latency.waited or 0.0) > _PRECISE:
        return True
    if latency.ratio is None or latency.ratio_ci95 is None:
        return False
    return latency.ratio_ci95[1] - latency.ratio_ci95[0] > _PRECISE * latency.ratio


def _with_latency(report: VariantReport, measured: Latency | EdgetlError | None) -> VariantReport:
    if isinstance(measured, EdgetlError):
        return with_error(report, measured)
    return report if measured is None else replace(report, latency=measured)


def _with_layers(report: VariantReport, measured: tuple[LayerError, ...] | EdgetlError) -> VariantReport:
    if isinstance(measured, EdgetlError):
        return replace(report, layers_error=measured.what)
    return replace(report, layers=measured, suspects=find_suspects(measured))
