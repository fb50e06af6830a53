"""A trained network to a bundle: capture, calibrate, build every variant, embed the manifest, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from edgetl_export.artifact import Artifact
from edgetl_export.built import LOG, Built, attempt
from edgetl_export.bundle_writer import write_file, write_golden, write_manifest, write_quantizations, write_variant
from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured, capture
from edgetl_export.converter_log import logged_to
from edgetl_export.features import check_features
from edgetl_export.int8 import Int8Options, Quantizer
from edgetl_export.interruption import interruption_kept
from edgetl_export.labels_file import LABELS_FILE, labels_text
from edgetl_export.ladder import Climbed, Rung
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.coverage import calibration_warnings, coverage
from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.saturation import LayerRisk
from edgetl_export.risks import summary
from edgetl_export.soundness import check_sound
from edgetl_export.source import Source
from edgetl_export.targets import (
    CALIBRATED,
    PRECISIONS,
    TARGETS,
    Target,
    check_batch,
    check_installed,
    check_io,
    check_names,
    check_opset,
    converters,
    open_target,
)
from edgetl_export.targets.requirements import requires
from edgetl_export.trying import try_candidate, try_files, without_variants
from edgetl_runtime import __version__
from edgetl_runtime.errors import EngineError, ExportError, UsageError
from edgetl_runtime.machine import cpu_features
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preprocess import ImageSource, preprocess
from edgetl_runtime.timing import Stopwatch

if TYPE_CHECKING:
    from edgetl_export.surgery import Surgery

__all__ = ["ExportOptions", "Exported", "export"]

_COVERED_IMAGES, _DIVERGING_IMAGES = 8, 16
"""So many photos say whether a calibration can be trusted, in a second or two."""


@dataclass(frozen=True)
class ExportOptions:
    """Which variants: every target at every precision, and how integers are found for those that need them.

    ``surgery`` replaces what is slow in integers. ``opset`` is the operator set of ONNX files, for old runtimes.
    ``batch`` is how many images a file takes in one run, `edgetl_runtime.batches.FREE` for any number.
    ``provenance`` is added to the manifest's.
    """

    targets: tuple[str, ...] = tuple(TARGETS)
    precisions: tuple[str, ...] = PRECISIONS
    int8: Int8Options = field(default_factory=Int8Options)
    surgery: Surgery | None = None
    opset: int | None = None
    batch: int = 1
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.targets, self.precisions)
        check_io(self.int8.io, self.targets, self.precisions)
        check_opset(self.opset, self.targets)
        check_batch(self.batch, self.targets)
        if self.int8.max_drop is not None and "int8" not in self.precisions:
            raise UsageError("a drop is only limited for int8", fix="add int8 to --precisions, or leave --max-drop out")

    @property
    def int8_safe(self) -> bool | Literal["seen"]:
        """``int8.safe``; where that is None, "seen" if this CPU adds in 16 bits what a file's engine would add here."""
        if self.int8.safe is not None:
            return self.int8.safe
        added = "int8" in self.precisions and not {"onnx", "openvino"}.isdisjoint(self.targets)
        return "seen" if added and cpu_features().adds_in_16_bits else False


@dataclass(frozen=True)
class Exported:
    """What `export` wrote into the folder. ``failed`` says why by variant id; ``seconds`` by stage.

    ``rungs`` is what the ladder gave, ``over_budget`` says of variants that are there but decide otherwise too often,
    ``warnings`` what makes the calibration doubtful.
    """

    captured: Captured
    manifest: Manifest
    failed: dict[str, str]
    seconds: dict[str, float]
    rungs: tuple[Rung, ...] = ()
    over_budget: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def export(
    source: Source,
    samples: CalibrationSamples,
    golden: Sequence[ImageSource],
    folder: Path,
    options: ExportOptions,
    *,
    track: Track = silent,
) -> Exported:
    """Write every variant, the golden samples and the manifest into `folder`.

    A target that fails does not stop the others: its reason is in `Exported.failed`. So is that of a file that was
    written and does not run: each is tried in a child process.

    Args:
        source: The network, its labels and its preprocessing.
        samples: Images that the ranges of integers are found on.
        golden: A few images that go into the bundle with the original's outputs, for self-tests.
        folder: An empty one that exists.
        options: Which variants, and how.
        track: Shows how far it is.

    Returns:
        The manifest, what failed, and how long it took.

    Raises:
        MissingDependency: A converter is not installed; before anything else is done.
        ExportError: The network is not sound (`check_sound`) or cannot be captured, or no variant could be written.
        DataError: The images cannot be calibrated on.
        UsageError: The network needs operators that ``opset`` has not, or has no such features.
    """
    check_installed(options.targets)
    check_features(source.features, decoded=source.decoded, io=options.int8.io, precisions=options.precisions)
    check_sound(source)
    if options.surgery is not None:
        source.network()  # a layer that it does not have is found before minutes of training
    clock = Stopwatch()
    facts: dict[str, Any] = {}
    with interruption_kept(), (folder / LOG).open("wb") as log:
        if options.surgery is not None:
            with clock("surgery"):
                changed, facts["surgery"] = _operated(source, samples, options, track)
        captured = capture(source if options.surgery is None else changed, batch=options.batch)
        with clock("export"), logged_to(log):
            _ = captured.program
        targets = {name: open_target(name, opset=options.opset) for name in options.targets}
        built = Built(targets, log, partial(_unable, targets, captured, options, folder))
        if options.opset is not None:
            with clock("export"), logged_to(log), suppress(EngineError):  # each variant of that target says it
                built.targets["onnx"].write(captured, "fp32")  # kept; refused here, before minutes of calibration
            facts["opset"] = options.opset
        climbed = _build_integers(built, source, captured, samples, options, clock, track)
        floats = [precision for precision in options.precisions if precision not in CALIBRATED]
        jobs = [(name, precision) for name in options.targets for precision in floats]
        for name, precision in track(jobs, what="export", total=len(jobs)):
            with clock("export"):
                built.attempt(name, precision, partial(built.targets[name].write, captured, precision))
        if not built.artifacts:
            raise _nothing_written(built.failed)
        warnings, risks = _looked_at(built, golden, clock)
        if warnings:
            facts["warnings"] = list(warnings)
        if climbed.rungs:
            facts["ladder"] = [asdict(rung) for rung in climbed.rungs]
        with clock("export"):
            saturation = {variant: {"saturation": summary(layers)} for variant, layers in risks.items()}
            manifest = _manifest(captured, built.in_order(options.precisions, saturation), options, facts)
            with logged_to(log):
                variants = tuple(
                    write_variant(
                        folder,
                        variant,
                        built.targets[variant.target].embed(
                            built.artifacts[variant.id], manifest.embedded(variant.id).to_json(compact=True)
                        ),
                    )
                    for variant in manifest.variants
                )
        with clock("export"):
            reasons, untried = try_files(folder, variants)
            built.drop(reasons)
            manifest = without_variants(replace(manifest, variants=variants), reasons)
        if not manifest.variants:
            raise _nothing_written(built.failed)
        with clock("export"):
            files = (write_file(folder, LABELS_FILE, labels_text(manifest.labels)),)
            manifest = replace(manifest, golden=write_golden(folder, source, golden), files=files)
            write_manifest(folder, manifest)
            write_quantizations(folder, built.quantizations, risks)
    over_budget = {id_: reason for id_, reason in climbed.over_budget.items() if id_ not in built.failed}
    return Exported(captured, manifest, built.failed, clock.seconds, climbed.rungs, over_budget, (*warnings, *untried))


def _nothing_written(failed: Mapping[str, str]) -> ExportError:
    reasons = "; ".join(f"{variant}: {reason}" for variant, reason in failed.items())
    return ExportError(f"no variant could be written - {reasons}", fix="choose other --targets")


def _build_integers(
    built: Built,
    source: Source,
    captured: Captured,
    samples: CalibrationSamples,
    options: ExportOptions,
    clock: Stopwatch,
    track: Track,
) -> Climbed:
    """Every variant that needs the calibration, from one set of parameters or the rung that each target needed."""
    calibrated = [precision for precision in options.precisions if precision in CALIBRATED]
    if not calibrated:
        return Climbed()
    with clock("calibrate"):
        with logged_to(built.log):
            integer = on_pixels(captured)
            _ = integer.batched
        _check_has_layers(integer)
        quantizer = built.quantizer = Quantizer(
            source, integer, samples, replace(options.int8, safe=options.int8_safe), track=track
        )
    climbed = Climbed()
    if options.int8.max_drop is not None:
        with clock("quantize"):
            climbed = quantizer.climb(built.writers(options.int8.io), options.int8.max_drop)
        built.artifacts.update(climbed.artifacts)
        built.failed.update(climbed.failed)
        built.quantizations.update(climbed.quantizations)
        calibrated.remove("int8")
    if not calibrated:
        return climbed
    with clock("quantize"):
        quantized = quantizer.quantized()
        jobs = [(name, precision) for name in options.targets for precision in calibrated]
        for name, precision in track(jobs, what="quantize", total=len(jobs)):
            if precision == "int8":
                built.risks.remember(name, quantized)
            io, model = (options.int8.io, quantized) if precision == "int8" else ("float", quantizer.wide(quantized))
            built.quantizations[f"{name}.{precision}"] = model.quantization
            built.attempt(name, precision, partial(built.targets[name].quantize, model, precision, io=io))
    return climbed


def _check_has_layers(captured: Captured) -> None:
    """`ExportError` where quantisation knows none of the network's layers: its integer files would be floats."""
    graph = captured.batched.graph
    products = [node for node in graph.nodes if "conv" in str(node.target) or "linear" in str(node.target)]
    if products and not layers(graph):
        raise ExportError(
            f"none of the {len(products)} convolutions and matrix products of {captured.source.name} can be quantised: "
            "their weights are computed, or they are of a kind that edgetl does not know",
            fix="--precisions fp32,fp16, or nn.Conv2d and nn.Linear in its code",
        )


def _looked_at(
    built: Built, golden: Sequence[ImageSource], clock: Stopwatch
) -> tuple[tuple[str, ...], dict[str, list[LayerRisk]]]:
    """What makes the calibration doubtful, and by variant what 16 bits may do; nothing when all variants are floats."""
    if built.quantizer is None:
        return (), {}
    with clock("calibrate"):
        warnings = _doubts(built.quantizer, golden)
    with clock("quantize"):
        return warnings, built.risks.of(built.quantizations)


def _doubts(quantizer: Quantizer, golden: Sequence[ImageSource]) -> tuple[str, ...]:
    """What speaks against the calibration, from a few of its photos and a few of those that judge."""
    tune, spec = quantizer.options.tune, quantizer.samples.preprocess

    def some(sources: Sequence[ImageSource], n: int) -> npt.NDArray[np.uint8]:
        return np.stack([preprocess(source, spec) for source in sources[:: max(1, len(sources) // n)][:n]])

    others = golden if tune is None else tune.sources
    covered = None
    if others:
        few = some(others, _COVERED_IMAGES)
        covered = coverage(quantizer.captured, quantizer.calibration, few, quantizer.options.ranges)
    photos = some(quantizer.samples.sources, _DIVERGING_IMAGES)
    return calibration_warnings(quantizer.source, quantizer.calibration, photos, covered)


def _operated(
    source: Source, samples: CalibrationSamples, options: ExportOptions, track: Track
) -> tuple[Source, dict[str, Any]]:
    """The source after surgery and distillation, and what it cost."""
    # Here, because it imports torchvision, which nothing else of the export needs.
    from edgetl_export.relearn import relearn
    from edgetl_export.surgery import operate

    assert options.surgery is not None
    operated = operate(source.module, options.surgery, samples, source.normalize)
    learned = relearn(operated, source, samples, options.int8.distillation, track=track)
    return replace(source, module=learned.network), learned.facts()


def _unable(
    targets: Mapping[str, Target],
    captured: Captured,
    options: ExportOptions,
    folder: Path,
    variant_id: str,
    artifact: Artifact,
) -> str | None:
    """Why a file that may become that variant cannot be run, tried in a child process; None when it can."""
    manifest = _manifest(captured, {variant_id: artifact}, options, {})
    variant = manifest.variant(variant_id)
    text = manifest.embedded(variant_id).to_json(compact=True)
    embedded = attempt(partial(targets[variant.target].embed, artifact, text))
    return embedded if isinstance(embedded, str) else try_candidate(folder, variant, embedded)


def _manifest(
    captured: Captured, built: dict[str, Artifact], options: ExportOptions, facts: dict[str, Any]
) -> Manifest:
    source = captured.source
    variants = []
    for variant_id, artifact in built.items():
        target, _, precision = variant_id.partition(".")
        quantization = artifact.quantization
        variants.append(
            Variant(
                variant_id,
                target,
                precision,
                (),
                requires(target, precision, opset=options.opset),
                quantization and {**quantization, "int8_safe": options.int8_safe},
                input=artifact.input,
                output=artifact.output,
            )
        )
    return replace(
        captured.manifest,
        variants=tuple(variants),
        provenance={
            "edgetl": __version__,
            "torch": torch.__version__,
            "converters": converters(options.targets),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoint_sha256": source.checkpoint_sha256,
            **options.provenance,
            "methods": {
                variant.id: variant.quantization["method"]
                for variant in variants
                if variant.quantization and "method" in variant.quantization
            },
            **facts,
        },
    )
