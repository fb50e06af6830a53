"""What is wrong with a variant: usual causes, each tried as a hypothesis on a handful of images, not guessed.

A cause is named when undoing it brings the variant back to the original's answers, when doing it to the original gives
the variant's, or when the file itself says so. Nothing is found for a variant that is sound. What is wrong with a
bundle as a whole, or only with what a file says of itself, is told by `edgetl.verify.diagnose.audit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.tasks import task_of
from edgetl.verify.layers.layer_error import find_suspects
from edgetl.verify.report import Finding, LayerError
from edgetl_runtime.batches import run_images
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.preprocess import preprocess

if TYPE_CHECKING:
    from edgetl.verify.diagnose.hypotheses import FewOutputs
    from edgetl.verify.report import VariantReport
    from edgetl_export import Captured, Source

__all__ = ["Evidence", "diagnose"]

_IMAGES, _IMAGES_FOR_LAYERS = 12, 4
_SOUND = {"fp32": (0.995, 60.0), "fp16": (0.99, 30.0)}
_SOUND_QUANTISED = (0.97, 12.0)
"""Agreement and SQNR (dB). A variant that reaches both has nothing to look for in its answers."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `diagnose` may look at: the open ``bundle``, and the images of the verification with all answers to them.

    ``samples`` are those that the logits belong to, in order: ``reference`` (n, classes) float32 of the original and
    ``logits`` of the variant, None when it could not be run. Both are None in a task whose outputs are other than a row
    of logits for each image: causes are then looked for in the layers alone. ``original`` is the network behind the
    reference, None on a device without torch: hypotheses that need it are left out then. ``threads`` is what a session
    uses.
    """

    bundle: Bundle
    samples: Sequence[Sample]
    reference: npt.NDArray[np.float32] | None
    logits: npt.NDArray[np.float32] | None = None
    original: Source | Captured | None = None
    threads: int = 1


def diagnose(report: VariantReport, evidence: Evidence) -> tuple[Finding, ...]:
    """The causes that were recognised for the variant of `report`, the surest first; empty when none was.

    Of one whose answers are those of a sound variant only the layers of `report` are looked at, for what should not be
    whatever it costs.

    Reads the variant's files, looks at the layers of `report` (or at those of a few images, when it has none), and runs
    variant and original on a few of the images; takes seconds where something is wrong. Never raises for a fault of the
    variant.
    """
    # Here, because some import torch, and a report that names `Finding` must not need it.
    from edgetl.verify.diagnose.damaged_files import explain_error
    from edgetl.verify.diagnose.layer_causes import (
        explain_by_facts,
        explain_by_first_layer,
        explain_by_layers,
        explain_non_finite,
    )

    if report.error is not None:
        return explain_error(evidence.bundle, report.id, report.error)
    if evidence.reference is None:
        return _explain_without_logits(report, evidence)
    if evidence.logits is None:
        return ()
    if _is_sound(report.precision, evidence.reference, evidence.logits):
        return explain_by_facts(report.layers)
    if not np.isfinite(evidence.logits).all():
        return explain_non_finite(evidence.logits, _layers(report, evidence))
    explained = _explain_answers(report, evidence)
    if explained:
        return explained
    layers = _layers(report, evidence)
    shown = explain_by_layers(report, layers, evidence.bundle, evidence.original)
    return shown or _explain_by_fit(evidence, layers) or explain_by_first_layer(layers)


def _explain_without_logits(report: VariantReport, evidence: Evidence) -> tuple[Finding, ...]:
    """What the layers say, where outputs are no logits that hypotheses could be tried on."""
    from edgetl.verify.diagnose.layer_causes import explain_by_facts, explain_by_first_layer, explain_by_layers

    parity = report.parity
    if parity is None:
        return ()
    # What is ordinary for rounded files the task knows: of small objects a pixel is another decision.
    ordinary = task_of(evidence.bundle.manifest.task).agreement_quantised, _SOUND_QUANTISED[1]
    agreement, near = _SOUND.get(report.precision, ordinary)
    if parity.decided_alike >= agreement and parity.sqnr_db >= near:
        return explain_by_facts(report.layers)
    layers = _layers(report, evidence)
    return explain_by_layers(report, layers, evidence.bundle, evidence.original) or explain_by_first_layer(layers)


def _is_sound(precision: str, reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> bool:
    if not np.isfinite(logits).all():
        return False
    agreement, near = _SOUND.get(precision, _SOUND_QUANTISED)
    agreed = float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())
    return agreed >= agreement and sqnr_db(reference, logits) >= near


def _layers(report: VariantReport, evidence: Evidence) -> Sequence[LayerError]:
    """Those of the report, else of a few images; none without the original, or when the engine shows none."""
    if report.layers or evidence.original is None:
        return report.layers
    from edgetl.verify.layers.compare import layer_errors

    images = _images(evidence, _some(evidence, _IMAGES_FOR_LAYERS))
    measured = layer_errors(evidence.bundle, [report.id], evidence.original, images, threads=evidence.threads)
    found = measured[report.id]
    return () if isinstance(found, EdgetlError) else found


def _explain_answers(report: VariantReport, evidence: Evidence) -> tuple[Finding, ...]:
    """The hypothesis after which both answer most alike, of those that leave little to explain."""
    from edgetl.verify.diagnose.hypotheses import explain_by_images, explain_by_logits

    assert evidence.logits is not None
    assert evidence.reference is not None
    few, source = _few_outputs(evidence), _source(evidence)
    found = [explain_by_logits(evidence.reference, evidence.logits)]
    output = evidence.bundle.manifest.output.name
    try:
        with evidence.bundle.session(report.id, threads=evidence.threads, verify=False) as session:

            def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
                return np.concatenate([run_images(session, image[None])[output] for image in images])

            found.append(explain_by_images(few, run))
    except EdgetlError:
        # It ran before: what stops it now is no hypothesis about its answers.
        pass
    if source is not None:
        from edgetl.verify.diagnose.preprocessing_probes import explain_by_original

        found.append(explain_by_original(few, source))
    known = [explanation for explanation in found if explanation is not None]
    return (max(known, key=lambda explanation: explanation.near_db).finding,) if known else ()


def _explain_by_fit(evidence: Evidence, layers: Sequence[LayerError]) -> tuple[Finding, ...]:
    """Another normalisation, tried when nothing else is known and the very first layer is wrong."""
    source = _source(evidence)
    if source is None or not find_suspects(layers[:1]):
        return ()
    from edgetl.verify.diagnose.preprocessing_probes import explain_by_fit

    found = explain_by_fit(_few_outputs(evidence), source)
    return () if found is None else (found.finding,)


def _source(evidence: Evidence) -> Source | None:
    if evidence.original is None:
        return None
    from edgetl_export import Captured

    return evidence.original.source if isinstance(evidence.original, Captured) else evidence.original


def _few_outputs(evidence: Evidence) -> FewOutputs:
    from edgetl.verify.diagnose.hypotheses import FewOutputs

    assert evidence.logits is not None
    assert evidence.reference is not None
    places = _some(evidence, _IMAGES)
    return FewOutputs(_images(evidence, places), evidence.reference[places], evidence.logits[places])


def _some(evidence: Evidence, n: int) -> list[int]:
    """Places of at most `n` samples, spread over all."""
    return list(range(len(evidence.samples)))[:: max(1, len(evidence.samples) // n)][:n]


def _images(evidence: Evidence, places: Sequence[int]) -> npt.NDArray[np.uint8]:
    spec = evidence.bundle.manifest.preprocess
    return np.stack([preprocess(evidence.samples[place].source, spec) for place in places])
