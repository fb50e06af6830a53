"""What the tests of `pytest_plugin` check: a bundle verified once, and two sessions held against each other.

The photos are run where a reference is: torch with the bundle's checkpoint, or the answers that the bundle keeps. Else
its golden samples stand in: their logits are the original's, so that agreement, SQNR, latency, size and memory are
judged on a device with one engine; they have no labels, so limits on accuracy cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.data.content import content_of
from edgetl.data.dataset import Sample
from edgetl.reports.phrases import causes
from edgetl.reports.table import describe, is_of_parity, where_it_goes_wrong
from edgetl.tasks import task_of
from edgetl.verify.bundle import REFERENCE, verify_bundle
from edgetl.verify.gate.limits import Gate, read_gate
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.measure.original_outputs import read_kept_outputs
from edgetl.verify.measure.parity import compare
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Check, Parity, Report
from edgetl.verify.verify import verify
from edgetl_runtime.batches import run_images
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import BundleError, DataError, EdgetlError, UsageError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.quantities import percent_in_words, told_apart
from edgetl_runtime.session import Session

__all__ = ["WORKS", "BundleChecks", "GateError", "Outcome", "assert_parity"]

WORKS = "works"
"""The check that every variant has: it loads and runs, and nothing else is wrong that no limit is about."""

_FEWEST_GOLDEN = 1
_AGAINST_TRUTH = ("accuracy", "known_quality", "quality")
"""Parts of a report that labelled photos are needed for."""
_SHOWN_FLIPS = 5
_CHECKPOINT = "checkpoint.json"


class GateError(AssertionError):
    """A check that does not hold; its text is all that there is to say."""


@dataclass(frozen=True)
class Outcome:
    """What became of one check: ``passed``, ``failed`` or ``skipped``, and why."""

    kind: str
    why: str = ""


class BundleChecks:
    """The checks of one bundle: known before anything is measured, measured when the first outcome is asked for.

    Raises `UsageError`, `BundleError` or `DataError` for what is wrong with the arguments.
    """

    def __init__(self, bundle: Path, data: Path | None, gate: Path | None) -> None:
        self.path, self.data = bundle, data
        self.bundle: Bundle = open_bundle(bundle)
        self.gate = Gate() if gate is None else read_gate(gate)
        if data is not None and not data.exists():
            raise DataError(f"{data} does not exist", fix="--edgetl-data FOLDER, with one folder of photos per label")
        self.source = self._source()
        if self.source == "golden" and self.bundle.manifest.golden is None:
            raise BundleError(f"{bundle} has no golden samples", fix="--edgetl-data FOLDER, where torch is installed")
        # Where torch is, every engine should be; on a device with one of them the others' variants are skipped.
        self._missing = {} if self.source == "torch" else self._obstacles()
        if len(self._missing) == len(self.bundle.manifest.variants):
            raise next(iter(self._missing.values()))
        self._report: Report | None = None

    @property
    def label(self) -> str:
        """What the ids of tests say of the images: nothing for photos, ``golden`` for golden samples."""
        return "golden" if self.source == "golden" else ""

    @property
    def description(self) -> str:
        """One line for the head of the test run."""
        images = {
            "torch": f"photos of {self.data} against the bundle's checkpoint",
            "kept": f"photos of {self.data} against the original's answers that the bundle keeps",
            "golden": "its golden samples" + ("" if self.data is None else f" (no torch here for {self.data})"),
        }[self.source]
        return f"edgetl: {self.path.name}, {len(self.bundle.manifest.variants)} variants, on {images}"

    def names(self) -> dict[str, list[str]]:
        """By variant the names of its checks: `WORKS`, then the limits of the gate."""
        return {
            variant.id: [
                WORKS,
                *self.gate.limits_for(
                    variant.id,
                    target=variant.target,
                    precision=variant.precision,
                    task=self.bundle.manifest.task,
                ),
            ]
            for variant in self.bundle.manifest.variants
        }

    def outcome(self, variant_id: str, what: str) -> Outcome:
        """The outcome of one of `names`; the first call verifies the bundle."""
        if variant_id in self._missing:
            return Outcome("skipped", f"cannot run here: {self._missing[variant_id]}")
        report = self._verified()
        checks = [check for check in report.verdict.checks if check.variant == variant_id]
        if what == WORKS:
            limits = self.names()[variant_id]
            wrong = [check for check in checks if not check.passed and check.what not in limits[1:]]
            return Outcome("failed", self._why(wrong)) if wrong else Outcome("passed")
        if self.source == "golden" and QUANTITIES[what].part.partition(".")[0] in _AGAINST_TRUTH:
            return Outcome("skipped", "golden samples have no labels: --edgetl-data FOLDER, where torch is installed")
        for check in checks:
            if check.what == what:
                if check.undecided:
                    return Outcome("skipped", f"undecided: {describe(check)}")
                return Outcome("passed") if check.passed else Outcome("failed", self._why([check]))
        return Outcome("failed", f"{variant_id}: {what} not measured: the variant does not work")

    def _obstacles(self) -> dict[str, EdgetlError]:
        """By variant what keeps it from running here."""
        found = {variant.id: obstacle(variant) for variant in self.bundle.manifest.variants}
        return {variant_id: missing.error for variant_id, missing in found.items() if missing is not None}

    def _source(self) -> str:
        if self.data is None:
            return "golden"
        if find_spec("torch") is not None and (self.path / REFERENCE / _CHECKPOINT).is_file():
            return "torch"
        return "kept" if read_kept_outputs(self.bundle) is not None else "golden"

    def _verified(self) -> Report:
        if self._report is None:
            self._report = self._verify()
        return self._report

    def _verify(self) -> Report:
        # Latency is measured when the gate limits it: a test run has no report to show it in.
        options = VerifyOptions(latency_seconds=0.0, gate=self.gate)
        if self.source != "golden" and self.data is not None:
            return verify_bundle(self.path, self.data, options).report
        runnable = [variant.id for variant in self.bundle.manifest.variants if variant.id not in self._missing]
        golden = _Golden(self.bundle)
        return verify(self.path, golden.samples, golden, options, variants=runnable)

    def _why(self, failed: Sequence[Check]) -> str:
        """All that helps to understand checks of one variant that do not hold."""
        report = self._verified()
        variant = report.variant(failed[0].variant)
        lines = [describe(check) for check in failed]
        lines += [f"p value {check.p_value:.3g}" for check in failed if check.p_value is not None]
        lines += causes(variant)
        places = where_it_goes_wrong(report) if any(is_of_parity(check.what) for check in failed) else []
        lines += [line for line in places if line.startswith(f"{variant.id} ")]
        return "\n".join(lines)


class _Golden:
    """Golden samples as samples whose label is what the original says, and as a `OriginalModel` that knows them."""

    def __init__(self, bundle: Bundle) -> None:
        golden = bundle.golden()
        if golden is None or len(golden.names) < _FEWEST_GOLDEN:
            raise BundleError(f"{bundle.path} has no golden samples", fix="export the bundle again")
        task = task_of(bundle.manifest.task)
        self.samples = [
            Sample(image, label, name, target)
            for row, (image, name) in enumerate(zip(golden.images, golden.names, strict=True))
            for label, target in [
                task.truth({key: values[row] for key, values in golden.outputs.items()}, bundle.manifest)
            ]
        ]
        self._outputs = golden.outputs
        self._rows = {content_of(tensor): row for row, tensor in enumerate(golden.tensors)}

    @property
    def features(self) -> tuple[str, ...]:
        """None are held against the original's."""
        return ()

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        outputs = self.outputs(images)
        return outputs[next(iter(outputs))]

    def outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Those of the golden samples with these tensors."""
        rows = [self._rows.get(content_of(image)) for image in images]
        if None in rows:
            raise DataError(
                "preprocessing gives other pixels here than where the bundle was made",
                fix="edgetl-run self-test BUNDLE says how far apart; compare the versions of Pillow",
            )
        found = np.array(rows, dtype=np.int64)
        return {name: values[found] for name, values in self._outputs.items()}


def assert_parity(
    session_a: Session,
    session_b: Session,
    samples: Sequence[Any],
    *,
    top1_agreement: float | None = 0.99,
    sqnr_db: float | None = None,
    spec: Preprocess | None = None,
) -> Parity:
    """Fail unless `session_b` answers `samples` like `session_a`; what was found is returned.

    A sample is a tensor as the sessions take it, with or without the batch axis, or - with `spec` - anything that
    `edgetl_runtime.preprocess` reads. ``top1_agreement`` is the least share of equal decisions, ``sqnr_db`` the least
    SQNR of b's logits against a's. Raises `GateError`, an `AssertionError`, and `UsageError` when there is nothing
    to assert or a limit makes no sense.
    """
    if top1_agreement is None and sqnr_db is None:
        raise UsageError("assert_parity without a limit", fix="top1_agreement=0.99, sqnr_db=20")
    for name, limit in (("top1_agreement", top1_agreement), ("sqnr_db", sqnr_db)):
        if limit is not None:
            QUANTITIES[name].range.check(name, limit)
    if len(samples) == 0:
        raise UsageError("assert_parity without samples", fix="pass at least one image")
    tensors = [_tensor(sample, session_a, spec) for sample in samples]
    a, b = _logits(session_a, tensors), _logits(session_b, tensors)
    if a.shape != b.shape:
        raise GateError(f"the sessions give logits of shapes {list(a.shape)} and {list(b.shape)}")
    parity = compare(a, b)
    wrong = []
    if top1_agreement is not None and parity.decided_alike < top1_agreement:
        equal = round(parity.decided_alike * parity.n)
        least = percent_in_words(top1_agreement)
        wrong.append(f"{equal} of {parity.n} decisions are equal, at least {least} asked for")
    if sqnr_db is not None and parity.sqnr_db < sqnr_db:
        value, _ = told_apart(parity.sqnr_db, sqnr_db, lambda decibels, more: f"{decibels:.{1 + more}f}")
        wrong.append(f"SQNR of the logits is {value} dB, at least {sqnr_db:g} dB asked for")
    if wrong:
        raise GateError("\n".join([*wrong, *_flips(a, b, samples)]))
    return parity


def _tensor(sample: Any, session: Session, spec: Preprocess | None) -> npt.NDArray[Any]:
    wanted = tuple(session.inputs[0].shape)
    alone = (1, *wanted[1:])
    if isinstance(sample, np.ndarray) and sample.shape in (alone, alone[1:]):
        return sample.reshape(alone)
    if spec is None:
        what = f"an array {list(sample.shape)}" if isinstance(sample, np.ndarray) else type(sample).__name__
        raise UsageError(f"the sessions take {list(wanted)}, this sample is {what}", fix="spec=manifest.preprocess")
    return preprocess(sample, spec)[None]


def _logits(session: Session, tensors: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """(n, classes) float32."""
    output = session.outputs[0].name
    rows = [run_images(session, tensor)[output].astype(np.float32).reshape(1, -1) for tensor in tensors]
    return np.concatenate(rows)


def _flips(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], samples: Sequence[Any]) -> list[str]:
    changed = np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1))
    lines = [
        f"sample {index}{_name(samples[index])}: {a[index].argmax()} -> {b[index].argmax()}"
        for index in changed[:_SHOWN_FLIPS]
    ]
    more = len(changed) - len(lines)
    return [*lines, f"and {more} more"] if more > 0 else lines


def _name(sample: Any) -> str:
    return f" ({sample})" if isinstance(sample, (str, Path)) else ""
