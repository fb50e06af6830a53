"""A trained network to a bundle: capture, calibrate, build every variant, embed the manifest, write."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from edgetl_export.artifact import Artifact
from edgetl_export.bundle_writer import write_golden, write_manifest, write_variant
from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured, Source, capture
from edgetl_export.chatter import chatter_to
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.static import quantize_static
from edgetl_export.staging import is_about_the_disk
from edgetl_export.targets import PRECISIONS, TARGETS, Target, check_installed, check_names, converters, open_target
from edgetl_runtime import __version__
from edgetl_runtime.errors import EdgetlError, ExportError
from edgetl_runtime.manifest import Manifest, Requires, Variant
from edgetl_runtime.preprocess import ImageSource

__all__ = ["ExportOptions", "Exported", "export"]

LOG = "export.log"
"""The converters' own output, in the bundle."""


@dataclass(frozen=True)
class ExportOptions:
    """Which variants: every target at every precision. ``provenance`` is added to the manifest's."""

    targets: tuple[str, ...] = tuple(TARGETS)
    precisions: tuple[str, ...] = PRECISIONS
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.targets, self.precisions)


@dataclass(frozen=True)
class Exported:
    """What `export` wrote into the folder. ``failed`` says why by variant id; ``seconds`` by stage."""

    captured: Captured
    manifest: Manifest
    failed: dict[str, str]
    seconds: dict[str, float]


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

    A target that fails does not stop the others: its reason is in `Exported.failed`. Raises `ExportError` when no
    variant could be written, `DataError` for images that cannot be calibrated on, `MissingDependency` before anything
    else when a converter is not installed.
    """
    check_installed(options.targets)
    clock = _Clock()
    captured = capture(source)
    built: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    targets = {name: open_target(name) for name in options.targets}
    jobs = [(name, precision) for name in options.targets for precision in options.precisions]
    with (folder / LOG).open("wb") as log:
        with clock("export"), chatter_to(log):
            _ = captured.program
        quantized: Quantized | None = None
        if "int8" in options.precisions:
            with clock("calibrate"):
                with chatter_to(log):
                    integer = on_pixels(captured)
                    _ = integer.batched
                calibration = calibrate(integer, samples, track=track)
            with clock("quantize"):
                quantized = quantize_static(integer, calibration)
        for name, precision in track(jobs, what="export", total=len(jobs)):
            with clock("quantize" if precision == "int8" else "export"), chatter_to(log):
                outcome = _attempt(targets[name], captured, quantized, precision)
            if isinstance(outcome, Artifact):
                built[f"{name}.{precision}"] = outcome
            else:
                failed[f"{name}.{precision}"] = outcome
        if not built:
            reasons = "; ".join(f"{variant}: {reason}" for variant, reason in failed.items())
            raise ExportError(f"no variant could be written - {reasons}", fix="choose other --targets")
        with clock("export"):
            manifest = _manifest(captured, built, options)
            with chatter_to(log):
                variants = tuple(
                    write_variant(
                        folder,
                        variant,
                        targets[variant.target].embed(built[variant.id], manifest.embedded(variant.id).to_json()),
                    )
                    for variant in manifest.variants
                )
            manifest = replace(manifest, variants=variants, golden=write_golden(folder, source, golden))
            write_manifest(folder, manifest)
    return Exported(captured, manifest, failed, clock.seconds)


def _attempt(target: Target, captured: Captured, quantized: Quantized | None, precision: str) -> Artifact | str:
    """A variant, or the reason why there is none: converters raise whatever they please."""
    try:
        return target.quantize(quantized) if precision == "int8" and quantized else target.write(captured, precision)
    except EdgetlError as error:
        return str(error)
    except OSError as error:
        if is_about_the_disk(error):
            raise
        return _told(error)
    except Exception as error:  # noqa: BLE001 - one converter's bug must not take the other targets with it
        return _told(error)


def _told(error: Exception) -> str:
    """One line, for the report; the whole story goes to the log."""
    traceback.print_exception(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'} (the whole story is in {LOG})"


def _manifest(captured: Captured, built: dict[str, Artifact], options: ExportOptions) -> Manifest:
    source = captured.source
    variants = []
    for variant_id, artifact in built.items():
        target, _, precision = variant_id.partition(".")
        requires = Requires(TARGETS[target].engine)
        variants.append(Variant(variant_id, target, precision, (), requires, artifact.quantization))
    return Manifest(
        name=source.name,
        task=source.task,
        labels=source.labels,
        input=captured.input,
        preprocess=source.preprocess,
        normalize=source.normalize,
        output=captured.output,
        variants=tuple(variants),
        provenance={
            "edgetl": __version__,
            "torch": torch.__version__,
            "converters": converters(options.targets),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoint_sha256": source.checkpoint_sha256,
            **options.provenance,
        },
    )


class _Clock:
    """Seconds by stage, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._start = 0.0

    def __call__(self, stage: str) -> _Clock:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._start
