"""The Python API: the main job as three calls, with defaults for everything but the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgetl import pipeline
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.image_size import ImageSize
from edgetl.recipe import ExportSection, Recipe
from edgetl.reports.recording import record_report
from edgetl.verify.gate.limits import Gate, read_gate
from edgetl.verify.gate.regression import Baseline
from edgetl.verify.report import Report
from edgetl.verify.verify import VerifyOptions
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import ExportError

__all__ = ["Checkpoint", "Report", "export", "finetune", "verify"]


def finetune(
    data: str | Path,
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    strategy: str | None = None,
    epochs: int | None = None,
    image_size: ImageSize | str | None = None,
    channels: int | None = None,
    recipe: Recipe | None = None,
    track: Track = silent,
) -> Checkpoint:
    """Fine-tune a backbone on a folder (or CSV) of labelled photos.

    `image_size` is in pixels: the side of a square, or (height, width), also as ``"192x320"``.
    What is not given is taken from `recipe`, which has every other option too. Raises `UsageError` for options that
    make no sense, `DataError` for photos that cannot be used, `CheckpointError` for weights that cannot be had.
    """
    given: dict[str, dict[str, Any]] = {
        "data": {"path": Path(data)},
        "model": {
            "backbone": backbone,
            "weights": None if weights is None else str(weights),
            "image_size": image_size,
            "channels": channels,
        },
        "train": {"strategy": strategy, "epochs": epochs},
    }
    changes = {
        name: {key: value for key, value in options.items() if value is not None} for name, options in given.items()
    }
    _, trained = pipeline.train((recipe or Recipe()).updated(changes, where="finetune()"), track=track)
    return trained.checkpoint


def export(
    checkpoint: Checkpoint | str | Path,
    *,
    calibration: str | Path,
    out: str | Path,
    options: ExportSection | None = None,
    skip_bad: bool = False,
    force: bool = False,
    track: Track = silent,
) -> Path:
    """Export a checkpoint (or the folder of one) to a bundle; `calibration` is a folder of photos like the device's,
    or a CSV of them. With `skip_bad` others are taken instead of photos that cannot be read.

    Returns the bundle's path. Nothing in it is verified yet: `verify` with ``record=True`` does that. Raises
    `OutputError` when `out` exists and not `force`, and `ExportError` when a variant could not be written - the bundle
    then holds the others.
    """
    if isinstance(checkpoint, Checkpoint):
        opened, came_from = checkpoint, None
    else:
        opened, came_from = Checkpoint.load(Path(checkpoint)), Path(checkpoint)
    exported = pipeline.export_checkpoint(
        opened,
        Path(calibration),
        Path(out),
        options,
        came_from=came_from,
        skip_bad=skip_bad,
        force=force,
        track=track,
    )
    if exported.failed:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in exported.failed.items())
        raise ExportError(f"{out} is not complete - {reasons}", fix="leave these targets or precisions out")
    return Path(out)


def verify(
    bundle: str | Path,
    data: str | Path,
    *,
    reference: Checkpoint | None = None,
    gate: Gate | str | Path | None = None,
    baseline: str | Path | None = None,
    threads: int = 1,
    record: bool = False,
    force: bool = False,
    track: Track = silent,
) -> Report:
    """Hold every variant of a bundle against the original on labelled photos, and judge it by `gate` and by `baseline`,
    the report.json of an accepted run.

    ``report.verdict.passed`` is the answer. The bundle is left as it is; with `record` what was found is put into its
    report.json and report.html, where the runtime reads it. Raises `OutputError`, before anything is measured, when
    that would replace a report on more photos; `force` replaces it.
    """
    chosen = gate if isinstance(gate, Gate) else Gate() if gate is None else read_gate(Path(gate))
    accepted = None if baseline is None else Baseline.read(Path(baseline))
    options = VerifyOptions(threads=threads, gate=chosen, baseline=accepted)
    outcome = pipeline.verify_bundle(
        Path(bundle), Path(data), options, reference=reference, record=record, force=force, track=track
    )
    if record:
        record_report(outcome.report, Path(bundle), force=force)
    return outcome.report
