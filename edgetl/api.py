"""The Python API: the main job as three calls, with defaults for everything but the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetl import pipeline
from edgetl.estimate import parts_of_export, parts_of_training
from edgetl.first_look import look_at_photos
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.image_size import ImageSize, image_size_of
from edgetl.models.normalization import normalize_of
from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.keras_model.apart import export_apart, is_apart
from edgetl.models.sources.opening import SourceOptions
from edgetl.open_to_export import open_to_export
from edgetl.pack import pack_bundle
from edgetl.progress import tracked
from edgetl.recipe import ExportSection, Recipe
from edgetl.reports.recording import record_report
from edgetl.verify.gate.limits import Gate, read_gate
from edgetl.verify.gate.regression import Baseline
from edgetl.verify.report import Report
from edgetl.verify.verify import VerifyOptions
from edgetl_export.progress import Tell, Track, untold
from edgetl_runtime.errors import ExportError, UsageError

__all__ = ["Checkpoint", "Report", "export", "finetune", "pack", "verify"]


def finetune(
    data: str | Path,
    *,
    task: str | None = None,
    backbone: Any = None,
    head: str | None = None,
    weights: str | Path | None = None,
    strategy: str | None = None,
    epochs: int | None = None,
    image_size: ImageSize | str | None = None,
    channels: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    last_layer: str | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
    track: Track | None = None,
) -> Checkpoint:
    """Fine-tune a backbone on labelled photos: for classification a folder or a CSV.

    `task` is what is learned, `head` what stands behind the backbone where the task has one of its own. `backbone` is
    a name (`edgetl backbones`, ``timm:NAME``, ``module.py:function``) or a `torch.nn.Module` of your own, of which a
    copy is trained; `last_layer` is then the path of its last layer, by default found, and `mean` and `std` (in units
    of 0..1) say how it takes pixels. `image_size` is in pixels: the side of a square, or (height, width), also as
    ``"192x320"``.

    What is not given is taken from `recipe`, which has every other option too. How far it is stands on stderr on a
    terminal and in a notebook, unless `progress` is False; `track` shows it in another way. Raises `UsageError` for
    options that make no sense, `DataError` for photos that cannot be used, `CheckpointError` for weights that cannot be
    had.
    """
    given: dict[str, dict[str, Any]] = {
        "data": {"path": Path(data), "task": task},
        "model": {
            "backbone": _named(backbone, last_layer),
            "head": head,
            "mean": _numbers(mean),
            "std": _numbers(std),
            "weights": None if weights is None else str(weights),
            "image_size": image_size,
            "channels": channels,
        },
        "train": {"strategy": strategy, "epochs": epochs},
    }
    changes = {name: _without_none(options) for name, options in given.items()}
    chosen = (recipe or Recipe()).updated(changes, where="finetune()")
    listing = look_at_photos(chosen)
    parts = [] if listing is None else parts_of_training(chosen, listing.split_sizes)
    with tracked(parts, track=track, progress=progress) as shown:
        _, trained = pipeline.train(chosen, listing=listing, track=shown)
    return trained.checkpoint


def export(
    checkpoint: Any,
    *,
    calibration: str | Path,
    out: str | Path,
    backbone: str | None = None,
    weights: str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    pixels: str | None = None,
    resize: str | None = None,
    interpolation: str | None = None,
    custom: str | Path | None = None,
    labels: str | Path | Sequence[str] | None = None,
    image_size: ImageSize | str | None = None,
    channels: int | None = None,
    decode: str | None = None,
    made_for: str | None = None,
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
    boxes_in_graph: bool | None = None,
    upsample: str | None = None,
    labels_in_graph: bool | None = None,
    opset: int | None = None,
    batch: int | str | None = None,
    options: ExportSection | None = None,
    skip_bad: bool = False,
    force: bool = False,
    progress: bool = True,
    track: Track | None = None,
    tell: Tell = untold,
) -> Path:
    """Export a network to a bundle: ``edgetl export`` from Python.

    Nothing in the bundle is verified yet: `verify` with ``record=True`` does that.

    Args:
        checkpoint: A checkpoint, a `torch.nn.Module` or Keras model in memory, or what names one: the folder of a
            checkpoint, ``.keras``, ``.h5``, ``.pt2``, ``timm:NAME``, ``module.py:function``, a weights file (``.pth``,
            ``.safetensors`` ...).
        calibration: A folder of photos like the device's, or a CSV of them.
        out: The bundle.
        backbone: Architecture of a weights file, which needs it. A checkpoint knows it, as it does the next three.
        weights: A file of weights for ``timm:NAME`` or ``module.py:function``.
        mean: What a network of your own takes off pixels of 0..1: a number, or one for each channel.
        std: What it divides them by then.
        pixels: What a Keras model takes (``"tf"``, ``"torch"``, ``"caffe"``, ``"0..1"``, ``"0..255"``), where its graph
            and its name do not say it.
        resize: How photos fit: ``"stretch"`` (the default for Keras), ``"crop"`` or ``"letterbox"``.
        interpolation: How a Keras model's photos are resized: ``"bilinear_no_antialias"`` (the default), ``"nearest"``,
            ``"bilinear"`` or ``"bicubic"``.
        custom: A file of code with your own Keras layers, and with their translations.
        labels: Labels of a weights file in the order of its logits: a file of them, or their names. Without it they
            are the folders of `calibration`, where these are as many, else numbers.
        image_size: Pixels that a weights file takes, by default the backbone's own.
        channels: Channels that a weights file takes, by default those that it has weights for.
        decode: How JPEG files are decoded, ``"exact"`` or ``"scaled"``, by default as the checkpoint says.
        made_for: ``"raspberry-pi"``, ``"android"``, ``"browser"``, ``"x86"`` or ``"mcu"`` picks targets and precisions.
        targets: What is written; this and all up to `batch` are keys of the section ``[export]`` of a recipe, as in
            ``edgetl export -h --all``.
        options: That section as a whole: what is not given by a keyword is taken from it, or has its default.
        skip_bad: Take others instead of photos that cannot be read.
        force: Replace the bundle if it exists.
        progress: Show on stderr how far it is, on a terminal and in a notebook.
        track: Shows that in another way.
        tell: Is called with each line that the command would print about weights, labels and photos.

    Returns:
        The bundle's path.

    Raises:
        UsageError: For a weights file without its backbone, a checkpoint with what it knows itself, senseless options.
        CheckpointError: When weights or labels cannot be read or do not fit.
        DataError: For photos that cannot be calibrated on.
        OutputError: When `out` exists and not `force`, or cannot be written.
        ExportError: When a variant could not be written. The bundle then holds the others.
    """
    given = {
        "for": made_for,
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
        "boxes_in_graph": boxes_in_graph,
        "upsample": upsample,
        "labels_in_graph": labels_in_graph,
        "opset": opset,
        "batch": batch,
    }
    said: dict[str, Any] = {
        "backbone": backbone,
        "weights": weights,
        "mean": mean,
        "std": std,
        "pixels": pixels,
        "resize": resize,
        "interpolation": interpolation,
        "custom": custom,
        "labels": labels,
        "image_size": image_size,
        "channels": channels,
    }
    if is_apart(checkpoint):
        if options is not None or track is not None:
            raise UsageError(
                "options and track cannot be handed to the process that exports, because Keras is not on torch here",
                fix="keywords such as targets=[...], or export the saved model.keras",
            )
        paths = {"calibration": calibration, "out": out, "force": force, "skip_bad": skip_bad}
        made = {"made_for": given.pop("for"), "decode": decode, "progress": False}
        keywords = {**said, **paths, **made, **given}
        for line in export_apart(checkpoint, _without_none(keywords)).splitlines():
            tell(line)
        return Path(out)
    recipe = Recipe() if options is None else Recipe(export=options)
    chosen = recipe.updated({"export": _without_none(given)}, where="export()").export
    if isinstance(checkpoint, Checkpoint):
        if extra := list(_without_none(said)):
            raise UsageError(f"a checkpoint knows its own {', '.join(extra)}", fix="leave them out")
        opened: Checkpoint | Foreign = checkpoint.decoding(decode)
        came_from = None
    else:
        came_from = Path(checkpoint) if isinstance(checkpoint, str | Path) else None
        opened = open_to_export(came_from or checkpoint, Path(calibration), _source_options(said, decode), tell=tell)
    with tracked(parts_of_export(chosen, chosen.calibration_samples), track=track, progress=progress) as shown:
        exported = pipeline.export_checkpoint(
            opened,
            Path(calibration),
            Path(out),
            chosen,
            came_from=came_from,
            skip_bad=skip_bad,
            force=force,
            track=shown,
            tell=tell,
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
    photos: bool = True,
    record: bool = False,
    force: bool = False,
    progress: bool = True,
    track: Track | None = None,
) -> Report:
    """Hold every variant of a bundle against the original on labelled photos, and judge it by `gate` and by `baseline`,
    the report.json of an accepted run.

    ``report.verdict.passed`` is the answer. The bundle is left as it is; with `record` what was found is put into its
    report.json and report.html, where the runtime reads it. Raises `OutputError`, before anything is measured, when
    that would replace a report on more photos; `force` replaces it. Without `photos` the report has no thumbnails.
    `progress` and `track` as in `finetune`.
    """
    chosen = gate if isinstance(gate, Gate) else Gate() if gate is None else read_gate(Path(gate))
    accepted = None if baseline is None else Baseline.read(Path(baseline))
    options = VerifyOptions(threads=threads, gate=chosen, baseline=accepted, photos=photos)
    with tracked((), track=track, progress=progress) as shown:
        outcome = pipeline.verify_bundle(
            Path(bundle), Path(data), options, reference=reference, record=record, force=force, track=shown
        )
    if record:
        record_report(outcome.report, Path(bundle), force=force, photos=photos)
    return outcome.report


def pack(
    bundle: str | Path,
    *,
    out: str | Path,
    variants: Sequence[str] | None = None,
    golden: int | None = None,
    force: bool = False,
) -> Path:
    """What a device needs of a bundle: ``edgetl pack`` from Python.

    Args:
        bundle: A bundle folder, a zip of one, or a single model file that edgetl wrote, of this version or an earlier.
        out: Where it goes: one file, a zip, where it ends with ``.edgetl`` or ``.zip``, else a folder.
        variants: Their ids, by default all.
        golden: So many golden samples, for a quick self-test, by default all.
        force: Replace the bundle at `out` if it exists.

    Returns:
        `out`.

    Raises:
        BundleError: When the bundle is damaged, or has no such variant.
        OutputError: When `out` exists and not `force`, is no bundle, or cannot be written.
        UsageError: For no variants, no golden sample, or an `out` that is called like a model file.
    """
    chosen = [variants] if isinstance(variants, str) else variants
    return pack_bundle(Path(bundle), Path(out), variants=chosen, golden=golden, force=force).path


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _named(backbone: Any, last_layer: str | None) -> str | None:
    """The name of a backbone, of a module in memory one for this process."""
    if backbone is None or isinstance(backbone, str):
        if last_layer is not None:
            raise UsageError("last_layer is of a module in memory", fix='in module.py: HEAD = "its.path"')
        return backbone
    # Here, because it imports torch.
    from edgetl.models.sources.own_code import remember

    return remember(backbone, head=last_layer)


def _numbers(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))


def _listed(names: Sequence[str] | None) -> Any:
    """Any sequence as a list. A text is left as it is: it is no list of its letters."""
    return names if names is None or isinstance(names, str) else list(names)


def _source_options(said: Mapping[str, Any], decode: str | None) -> SourceOptions:
    """What was `said` of a network that is no checkpoint."""
    weights, custom, labels, size = (said[name] for name in ("weights", "custom", "labels", "image_size"))
    known = {name: said[name] for name in ("backbone", "channels", "pixels", "resize", "interpolation")}
    return SourceOptions(
        **known,
        weights=None if weights is None else Path(weights),
        custom=None if custom is None else Path(custom),
        labels=Path(labels) if isinstance(labels, str) else labels,
        image_size=None if size is None else image_size_of(size),
        decode=decode,
        normalize=normalize_of(_numbers(said["mean"]), _numbers(said["std"])),
    )
