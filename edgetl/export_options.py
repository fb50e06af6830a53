"""The section ``[export]`` of a recipe as `edgetl_export` takes it, and what can be wrong with it before a training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from edgetl.data.augmentation import was_mirrored
from edgetl.data.dataset import Dataset, pick
from edgetl.models.backbones import build, preset
from edgetl.models.sources import kind_of_name
from edgetl.models.sources.foreign import Exportable
from edgetl.photos_to_export import TUNE_SAMPLES, Photos
from edgetl.recipe import ExportSection, Recipe
from edgetl.tasks.task import Task
from edgetl.training.start import input_channels, untrained
from edgetl.verify.bundle import source_of
from edgetl_export import CalibrationSamples, ExportOptions, Source, capture
from edgetl_export.device import device_named
from edgetl_export.features import check_features, with_features
from edgetl_export.int8 import Int8Options
from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.targets import check_installed, check_names
from edgetl_runtime import tasks as device_tasks
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label

if TYPE_CHECKING:
    from edgetl_export.surgery import Surgery

__all__ = [
    "check_batch_behind_a_head",
    "check_export",
    "check_graph",
    "check_layers",
    "check_says_something",
    "note_on_int8",
    "options_of_export",
]


def options_of_export(checkpoint: Exportable, photos: Photos, options: ExportSection) -> ExportOptions:
    sources = [sample.source for sample in pick(photos.tune, TUNE_SAMPLES)] if photos.tune else []
    return ExportOptions(
        options.targets,
        options.precisions,
        Int8Options(
            quantize=options.quantize,
            max_drop=options.max_drop,
            tune=CalibrationSamples(sources, checkpoint.preprocess)
            if sources and options.max_drop is not None
            else None,
            labels=tuple(photo.label for photo in photos.calibration) if options.quantize == "qat" else (),
            agreement=partial(device_tasks.task_of(checkpoint.task).agreement, decoder=checkpoint.decoder),
            ranges=options.ranges,
            safe=options.int8_safe,
            io=options.io,
            distillation=DistillOptions(
                epochs=options.distill_epochs,
                seconds=60.0 * options.distill_minutes,
                mirror=was_mirrored(checkpoint.training),  # unless it was trained without: it may be another sign
                device=options.device,
            ),
        ),
        surgery=_surgery(options),
        opset=options.opset,
        batch=options.images_at_once,
        provenance={"backbone": checkpoint.backbone, **photos.facts},
    )


def note_on_int8(options: ExportSection) -> str | None:
    """What is said where nothing was, and weights are made for this CPU."""
    if ExportOptions(options.targets, options.precisions, Int8Options(safe=options.int8_safe)).int8_safe != "seen":
        return None
    return "int8_safe: sums as in these photos fit 16 bits, for this CPU has no VNNI; --no-int8-safe for other devices"


def _surgery(options: ExportSection) -> Surgery | None:
    if options.activation is None and not options.no_se:
        return None
    # Here, because it imports torchvision.
    from edgetl_export.surgery import Surgery

    return Surgery(options.activation, squeeze_excite=not options.no_se)


def check_export(options: ExportSection) -> None:
    """What can be wrong with an export, found before anything is trained. Raises `UsageError` and the like."""
    check_names(options.targets, options.precisions)
    check_features(options.features, io=options.io, precisions=options.precisions)
    check_installed(options.targets)
    device_named(options.device)
    # Photos and their labels are not known yet.
    labels = (0,) if options.quantize == "qat" else ()
    int8 = Int8Options(
        quantize=options.quantize, max_drop=options.max_drop, ranges=options.ranges, labels=labels, io=options.io
    )
    ExportOptions(
        options.targets,
        options.precisions,
        int8,
        surgery=_surgery(options),
        opset=options.opset,
        batch=options.images_at_once,
    )


def check_layers(recipe: Recipe) -> None:
    """`UsageError` when the backbone lacks a layer of ``export.features``: found before it is trained."""
    model, channels = recipe.model, input_channels(recipe.model)
    preprocess, _ = preset(model.backbone, model.image_size, channels=channels, normalize=model.normalize)
    network = build(model.backbone, 2, image_size=model.image_size, channels=channels).eval()
    with_features(network, recipe.export.features, torch.zeros(2, channels, *preprocess.crop))


def check_graph(recipe: Recipe) -> None:
    """`ExportError` when the backbone has no graph that can be exported, for as many images as ``export.batch`` says:
    found before it is trained. Those that edgetl knows have one for one image."""
    if recipe.export.images_at_once == 1 and kind_of_name(recipe.model.backbone) != "own":
        return
    model, channels = recipe.model, input_channels(recipe.model)
    preprocess, normalize = preset(model.backbone, model.image_size, channels=channels, normalize=model.normalize)
    network = build(model.backbone, 2, image_size=model.image_size, channels=channels).eval()
    labels = (Label("a", "a"), Label("b", "b"))
    source = Source(model.backbone, network, labels, preprocess, normalize, checkpoint_sha256="")
    _ = capture(source, batch=recipe.export.images_at_once).program


def check_batch_behind_a_head(recipe: Recipe, dataset: Dataset) -> None:
    """The same where only the photos say what the head is like."""
    source = source_of(untrained(dataset, recipe.model), recipe.model.backbone)
    _ = capture(source, batch=recipe.export.images_at_once).program


def check_says_something(task: Task, options: ExportSection) -> None:
    """`UsageError` for what the task has no decoding for, and for a way to int8 that trains on one label for each
    photo, where there is more than that."""
    for name in options.in_graph:
        if name not in task.decodings:
            raise UsageError(f"--{name.replace('_', '-')} says nothing in {task.name}", fix="leave it out")
    decoded = [output for name in options.in_graph for output in task.decodings[name].names]
    check_features((), decoded=decoded, io=options.io, precisions=options.precisions)
    if options.quantize == "qat" and task.heads:
        raise UsageError(f"qat says nothing in {task.name}", fix="--quantize distill, which needs no labels")
