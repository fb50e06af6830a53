"""The Python API: the main job as three calls, with defaults for everything but the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetl import pipeline
from edgetl.models.checkpoint import Checkpoint
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
    image_size: int | None = None,
    channels: int | None = None,
    recipe: Recipe | None = None,
    track: Track = silent,
) -> Checkpoint:
    """Fine-tune a backbone on a folder (or CSV) of labelled photos.

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
    changes = {name: _without_none(options) for name, options in given.items()}
    _, trained = pipeline.train((recipe or Recipe()).updated(changes, where="finetune()"), track=track)
    return trained.checkpoint


def export(
    checkpoint: Checkpoint | str | Path,
    *,
    calibration: str | Path,
    out: str | Path,
    targets: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    calibration_samples: int | None = None,
    quantize: str | None = None,
    max_drop: float | None = None,
    tune_data: str | Path | None = None,
    ranges: str | None = None,
    int8_safe: bool | None = None,
    io: str | None = None,
    activation: str | None = None,
    no_se: bool | None = None,
    distill_epochs: int | None = None,
    distill_minutes: float | None = None,
    device: str | None = None,
    features: Sequence[str] | None = None,
    options: ExportSection | None = None,
    skip_bad: bool = False,
    force: bool = False,
    track: Track = silent,
) -> Path:
    """Export a checkpoint (or the folder of one) to a bundle; `calibration` is a folder of photos like the device's,
    or a CSV of them. With `skip_bad` others are taken instead of photos that cannot be read.

    The keywords from `targets` to `features` are those of the ``[export]`` section of a recipe, and of ``edgetl export
    -h --all``; what is not given is taken from `options`, or has its default.

    Returns the bundle's path. Nothing in it is verified yet: `verify` with ``record=True`` does that. Raises
    `UsageError` for options that make no sense, `OutputError` when `out` exists and not `force`, and `ExportError` when
    a variant could not be written - the bundle then holds the others.
    """
    given = {
        "targets": _listed(targets),
        "precisions": _listed(precisions),
        "calibration_samples": calibration_samples,
        "quantize": quantize,
        "max_drop": max_drop,
        "tune_data": tune_data,
        "ranges": ranges,
        "int8_safe": int8_safe,
        "io": io,
        "activation": activation,
        "no_se": no_se,
        "distill_epochs": distill_epochs,
        "distill_minutes": distill_minutes,
        "device": device,
        "features": _listed(features),
    }
    recipe = Recipe() if options is None else Recipe(export=options)
    chosen = recipe.updated({"export": _without_none(given)}, where="export()").export
    if isinstance(checkpoint, Checkpoint):
        opened, came_from = checkpoint, None
    else:
        opened, came_from = Checkpoint.load(Path(checkpoint)), Path(checkpoint)
    exported = pipeline.export_checkpoint(
        opened,
        Path(calibration),
        Path(out),
        chosen,
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


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _listed(names: Sequence[str] | None) -> Any:
    """Any sequence as a list. A text is left as it is: it is no list of its letters."""
    return names if names is None or isinstance(names, str) else list(names)
