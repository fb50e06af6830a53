"""The order of the stages: photos -> checkpoint -> bundle -> report. The only file that knows it."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from edgetl.data.augmentation import was_mirrored
from edgetl.data.dataset import Dataset, Sample, load_photos, pick, pick_readable
from edgetl.data.listing import Listing
from edgetl.data.splits import find_photos
from edgetl.first_look import look_at_photos
from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import CHECKPOINT_FILE, Checkpoint
from edgetl.models.sources.foreign import Exportable, Foreign
from edgetl.models.sources.opening import SourceOptions, kind_of, open_source
from edgetl.models.training_history import HISTORY_FILE
from edgetl.recipe import ExportSection, Recipe, verify_options
from edgetl.reports.writing import ReportFiles, write_report
from edgetl.tasks import task_of
from edgetl.tasks.task import Task
from edgetl.training.finetune import Trained, check_start, finetune, input_channels, input_spec, untrained
from edgetl.training.lr_finder import LrRange, lr_range
from edgetl.training.qat import train_quantized
from edgetl.training.rank import is_first
from edgetl.training.resume import Keeping, unfinished
from edgetl.training.tensorboard_log import check_log, write_log
from edgetl.verify.bundle import REFERENCE, Outcome, source_of, verify_bundle
from edgetl.verify.measure.original_outputs import RecordingOriginal
from edgetl.verify.verify import RunFacts, verify
from edgetl_export import CalibrationSamples, Exported, ExportOptions, Source, capture, export
from edgetl_export.device import device_named
from edgetl_export.features import check_features, with_features
from edgetl_export.int8 import Int8Options
from edgetl_export.labels_file import check_label_names
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.staging import check_destination, staged
from edgetl_export.targets import check_installed, check_names
from edgetl_runtime import tasks as device_tasks
from edgetl_runtime.batch_sizes import batch_text
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Label, Preprocess

if TYPE_CHECKING:
    from edgetl_export.surgery import Surgery

__all__ = [
    "Outcome",
    "Photos",
    "check_all",
    "export_checkpoint",
    "find_rate",
    "labelled_by_folders",
    "open_to_export",
    "photos_of",
    "run",
    "train",
    "train_along",
    "train_to",
    "verify_bundle",
]

_Opened = TypeVar("_Opened", bound=Checkpoint | Foreign)

GOLDEN_SAMPLES = 16
TUNE_SAMPLES = 500
"""Photos that rungs of the ladder are judged on, when there are as many."""
LEAST_TO_JUDGE = 100
"""With fewer photos besides those to calibrate on, some of these are held out."""
BUNDLE_FILE = "manifest.json"


@dataclass(frozen=True)
class Photos:
    """The images that an export needs: to calibrate on, to keep as golden samples, and to judge rungs of int8 on.

    ``facts`` go to the provenance.
    """

    calibration: Sequence[Sample]
    golden: Sequence[Sample]
    tune: Sequence[Sample] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def run(
    recipe: Recipe,
    out: Path,
    *,
    dataset: Dataset | None = None,
    listing: Listing | None = None,
    force: bool = False,
    resume: bool = False,
    track: Track = silent,
    tell: Tell = untold,
) -> Outcome:
    """The main job: fine-tune, export, verify. `dataset` stands in for ``recipe.data.path``; `listing` is what
    `edgetl.first_look` found there, when that was looked at before.

    Until the bundle is there the training is kept in ``OUT.training`` (`edgetl.training.resume`), for `resume`.
    The bundle at `out` holds its own report and is there whole or not at all; one whose verdict is "failed" is kept,
    with the reasons in its report. Everything that can be known to fail does so before the first expensive step.
    """
    check_destination(out, holds=BUNDLE_FILE, force=force)
    if dataset is None and listing is None:
        listing = look_at_photos(recipe)
    _check_export(recipe.export)
    _check_learned_from_labels(task_of(recipe.data.task), recipe.export)
    task = task_of(recipe.data.task)
    spec = input_spec(recipe.model, task)
    chosen_to_tune = _tune_photos(recipe.export, spec, skip_bad=recipe.data.skip_bad, tell=tell)
    if recipe.export.features:
        if task.heads:
            raise UsageError(f"features say nothing in {task.name}", fix="leave --features out")
        _check_layers(recipe)
    if recipe.export.images_at_once != 1:
        tell(f"files take {batch_text(recipe.export.images_at_once)} (training steps have --batch-size)")
        if not task.heads:
            _check_batch(recipe)
    judging = verify_options(recipe)
    keeping = Keeping(unfinished(out), resume)
    keeping.check(force=force)
    with keeping.through():
        dataset, trained = train(recipe, dataset=dataset, listing=listing, keeping=keeping, track=track, tell=tell)
        held_out, split = dataset.held_out
        calibration = pick(dataset.train, recipe.export.calibration_samples, recipe.train.seed)
        photos = Photos(
            calibration=calibration,
            tune=chosen_to_tune or _others(dataset.train, calibration),
            golden=pick(held_out, GOLDEN_SAMPLES, recipe.train.seed),
            facts={"data_fingerprint": dataset.fingerprint, "training": trained.checkpoint.training},
        )
        with staged(out, holds=BUNDLE_FILE, force=force) as folder:
            exported = _write_bundle(
                trained.checkpoint, photos, recipe.export, folder, name=printable(out.stem), track=track
            )
            trained.history.save(folder / REFERENCE / HISTORY_FILE)
            answering = exported.captured.source.reference()
            recording = RecordingOriginal(answering, exported.captured.output.name)
            report = verify(
                folder,
                held_out,
                recording if recipe.verify.keep_reference else answering,
                judging,
                original=exported.captured,
                track=track,
                facts=RunFacts(
                    seconds={"train": trained.seconds, **exported.seconds},
                    history=[dataclasses.asdict(epoch) for epoch in trained.history.epochs],
                    not_exported=exported.failed,
                    tried=True,
                    about_photos=dataset.notes,
                ),
            )
            if recipe.verify.keep_reference:
                recording.keep(folder, open_bundle(folder).manifest, [sample.label for sample in held_out])
            report = dataclasses.replace(report, bundle=printable(out.name))
            write_report(report, ReportFiles.in_folder(folder))
    keeping.drop()
    told = [note for note in trained.notes if note not in dataset.notes]  # the report has these
    notes = (*told, _about_split(split), *(f"warning: {text}" for text in exported.warnings))
    return Outcome(out, report, notes, exported.over_budget)


def find_rate(recipe: Recipe, *, listing: Listing | None = None, track: Track = silent, tell: Tell = untold) -> LrRange:
    """Photos to a learning rate that suits them (`edgetl.training.lr_finder`); `listing` as in `run`."""
    if listing is None:
        look_at_photos(recipe)
    check_start(recipe.model, recipe.train, recipe.data.task)
    dataset = photos_of(recipe, track=track)
    for note in dataset.notes:
        tell(note)
    return lr_range(dataset, recipe.model, recipe.train, recipe.augment, track=track)


def train(
    recipe: Recipe,
    *,
    dataset: Dataset | None = None,
    listing: Listing | None = None,
    keeping: Keeping | None = None,
    track: Track = silent,
    tell: Tell = untold,
) -> tuple[Dataset, Trained]:
    """Photos to a checkpoint. `dataset` and `listing` as in `run`; `keeping` keeps the state on the way.

    What a person should know of the photos is told before the training.
    """
    task_of(recipe.data.task)
    if dataset is None and listing is None:
        listing = look_at_photos(recipe)
    check_start(recipe.model, recipe.train, recipe.data.task)
    log = None if recipe.train.tensorboard is None else Path(recipe.train.tensorboard)
    if log is not None and is_first():
        check_log(log)
    if dataset is None:
        dataset = photos_of(recipe, track=track)
        for note in dataset.notes:
            if listing is None or note not in listing.lines_on_files:
                tell(note)
    if recipe.export.images_at_once != 1 and task_of(recipe.data.task).heads:
        _check_batch_behind_a_head(recipe, dataset)
    # Where it is watched is no part of what a checkpoint says of its training.
    options = dataclasses.replace(recipe.train, tensorboard=None)
    trained = finetune(dataset, recipe.model, options, augment=recipe.augment, keeping=keeping, track=track, tell=tell)
    if recipe.train.qat:
        source = source_of(trained.checkpoint, dataset.name)
        trained = train_quantized(trained, source, dataset, options, track=track)
    if log is not None and is_first():
        write_log(trained.history, log)
    return dataset, trained


def photos_of(recipe: Recipe, *, track: Track = silent) -> Dataset:
    """The data set that the recipe names. Raises `UsageError` when it names none, and what `load_dataset` raises."""
    if recipe.data.path is None:
        raise UsageError("no photos to train on", fix="--data FOLDER")
    task = task_of(recipe.data.task)
    return task.read(recipe.data.path, recipe.data, spec=input_spec(recipe.model, task), track=track)


def check_all(recipe: Recipe, *, track: Track = silent) -> Dataset:
    """Everything that `run` finds before it trains - options, weights, photos - and the photos."""
    _check_export(recipe.export)
    check_start(recipe.model, recipe.train, recipe.data.task)
    return photos_of(recipe, track=track)


def train_along(recipe: Recipe, out: Path, *, resume: bool = False) -> None:
    """What processes of ``torchrun`` besides the first one do while that one is in `run`."""
    train(recipe, keeping=Keeping(unfinished(out), resume))


def train_to(
    recipe: Recipe,
    out: Path,
    *,
    listing: Listing | None = None,
    force: bool = False,
    resume: bool = False,
    track: Track = silent,
    tell: Tell = untold,
) -> Trained:
    """Photos to a checkpoint folder at `out`, with the recipe and the history of the training in it.

    The recipe there has no option open. Until then the training is kept in ``OUT.training``, for `resume`. Of several
    processes the first one writes.
    """
    check_destination(out, holds=CHECKPOINT_FILE, force=force)
    keeping = Keeping(unfinished(out), resume)
    keeping.check(force=force)
    dataset, trained = train(recipe, listing=listing, keeping=keeping, track=track, tell=tell)
    trained = dataclasses.replace(trained, notes=tuple(note for note in trained.notes if note not in dataset.notes))
    if not is_first():
        return trained
    with staged(out, holds=CHECKPOINT_FILE, force=force) as folder:
        trained.checkpoint.write(folder)
        trained.history.save(folder / HISTORY_FILE)
        trained.history.plot(folder / "history.png")
        dataclasses.replace(recipe, train=trained.options).save(folder / "recipe.toml")
    keeping.drop()
    return trained


def export_checkpoint(
    checkpoint: Exportable,
    calibration: Path | Sequence[Sample],
    out: Path,
    options: ExportSection | None = None,
    *,
    came_from: Path | None = None,
    skip_bad: bool = False,
    force: bool = False,
    track: Track = silent,
    tell: Tell = untold,
) -> Exported:
    """A checkpoint to a bundle at `out`; `calibration` is a folder of photos, labelled or not, a CSV, or samples.

    The history of the training goes along when it lies in the folder that the checkpoint `came_from`. The golden
    samples are taken from the calibration photos; ``qat`` trains on their labels. With `skip_bad` others are taken
    instead of photos that cannot be read. Raises `ExportError` when no variant could be written, and `UsageError` when
    ``qat`` lacks labels; when only some variants could not be written, their reasons are in `Exported.failed`.
    """
    options = options or ExportSection()
    check_destination(out, holds=BUNDLE_FILE, force=force)
    _check_export(options)
    _check_learned_from_labels(task_of(checkpoint.task), options)
    if options.images_at_once != 1:
        tell(f"files take {batch_text(options.images_at_once)}")
    chosen_to_tune = _tune_photos(options, checkpoint.preprocess, skip_bad=skip_bad, tell=tell)

    told: set[str] = set()

    def tell_once(line: str) -> None:
        if line not in told:
            told.add(line)
            tell(line)

    def take(some: Sequence[Sample], n: int) -> tuple[Sample, ...]:
        if not isinstance(calibration, Path):
            return pick(some, n)
        spec = checkpoint.preprocess
        return pick_readable(some, n, spec, calibration, skip_bad=skip_bad, track=track, tell=tell_once)

    available = (
        _available(calibration, checkpoint, options, skip_bad=skip_bad, tell=tell)
        if isinstance(calibration, Path)
        else calibration
    )
    calibration_photos = take(available, options.calibration_samples)
    others = () if options.max_drop is None or chosen_to_tune else _others(available, calibration_photos)
    photos = Photos(
        calibration=calibration_photos,
        golden=take(available, GOLDEN_SAMPLES),
        tune=chosen_to_tune or (take(others, TUNE_SAMPLES) if others else ()),
        facts={"training": checkpoint.training},
    )
    with staged(out, holds=BUNDLE_FILE, force=force) as folder:
        exported = _write_bundle(checkpoint, photos, options, folder, name=printable(out.stem), track=track)
        if came_from is not None and (came_from / HISTORY_FILE).is_file():
            shutil.copyfile(came_from / HISTORY_FILE, folder / REFERENCE / HISTORY_FILE)
    return exported


def open_to_export(
    spec: object, calibration: Path, options: SourceOptions | None = None, *, tell: Tell = untold
) -> Checkpoint | Foreign:
    """Whatever a network comes as (`edgetl.models.sources`), with its labels: those said, else `labelled_by_folders`.

    What was done to the weights, and where the labels are from, is told.
    """
    options = options or SourceOptions()
    if kind_of(spec) == "keras":
        options = dataclasses.replace(options, photos=_some_photos(calibration))
    opened = open_source(spec, options)
    if kind_of(spec) == "checkpoint":
        return opened
    name = spec.name if isinstance(spec, Path) else opened.backbone
    tell(f"{name}: {opened.training.get('loading', 'opened as it is')}")
    if options.labels is None and not any(label.name != label.id or not label.id.isdigit() for label in opened.labels):
        opened, note = labelled_by_folders(opened, calibration)
        tell(note)
    elif numbered := _numbered(opened.labels):
        tell(numbered)
    _check_pixels(opened, calibration)
    return opened


def _check_pixels(opened: Checkpoint | Foreign, photos: Path) -> None:
    """`UsageError` where labelled photos refute how a Keras model is said to take pixels."""
    if not isinstance(opened, Foreign) or opened.kind != "keras":
        return
    # Here, because it is about Keras models alone.
    from edgetl.models.sources.keras_model import check_pixels

    try:
        files = find_photos(photos, opened.preprocess.channels, labelled=True)[0]
    except DataError:  # without labels
        return
    check_pixels(opened, files)


def _some_photos(path: Path) -> list[Any]:
    """Some photos of `path`, spread over it."""
    files = [file for files in find_photos(path, 3)[0].values() for file in files]
    return files[:: max(1, len(files) // GOLDEN_SAMPLES)][:GOLDEN_SAMPLES]


def _numbered(labels: Sequence[Label]) -> str:
    """Which labels got a number for an id, because others have their name; empty when none did."""
    times = Counter(label.name for label in labels)
    twice = [f"{label.name} ({label.id})" for label in labels if times[label.name] > 1]
    more = f" and {len(twice) - 6} more" if len(twice) > 6 else ""
    return f"labels whose name is there twice, with their ids: {', '.join(twice[:6])}{more}" if twice else ""


def labelled_by_folders(checkpoint: _Opened, photos: Path) -> tuple[_Opened, str]:
    """Labels for plain weights that came without: those of `photos`, sorted, when they are as many as the logits.

    They are the names of the folders that `export_checkpoint` calibrates on, or what a CSV, shards or a data set say.
    Otherwise the numbers stay. The second value says which, for the user to read.
    """
    try:
        names = sorted(find_photos(photos, checkpoint.preprocess.channels, labelled=True)[0])
    except DataError:  # without labels; whatever else is wrong with the photos is said when they are read
        names = []
    if len(names) != len(checkpoint.labels):
        return checkpoint, f"labels are the numbers 0 to {len(checkpoint.labels) - 1}: --labels FILE gives them names"
    check_label_names(names, str(photos))
    labels = tuple(Label(name, name) for name in names)
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    return dataclasses.replace(checkpoint, labels=labels), f"labels are those of {photos}: {shown}"


def _write_bundle(
    checkpoint: Exportable, photos: Photos, options: ExportSection, folder: Path, *, name: str, track: Track
) -> Exported:
    exported = export(
        source_of(checkpoint, name, options.features),
        CalibrationSamples([sample.source for sample in photos.calibration], checkpoint.preprocess),
        [sample.source for sample in photos.golden],
        folder,
        _export_options(checkpoint, photos, options),
        track=track,
    )
    (folder / REFERENCE).mkdir()
    checkpoint.write(folder / REFERENCE)
    return exported


def _available(
    path: Path, checkpoint: Exportable, options: ExportSection, *, skip_bad: bool, tell: Tell
) -> tuple[Sample, ...]:
    """Photos to calibrate on; where they are trained on too, with the labels that their folders stand for."""
    spec = checkpoint.preprocess
    if options.quantize != "qat":
        return load_photos(path, spec=spec, tell=tell)
    try:
        return task_of(checkpoint.task).read_labelled(
            path, checkpoint.labels, spec=spec, training=True, skip_bad=skip_bad, track=silent, tell=tell
        )[0]
    except DataError as error:
        raise UsageError(
            f"qat trains on labels: {error.what}", fix=f"{error.fix}; --quantize distill needs no labels"
        ) from error


def _tune_photos(options: ExportSection, spec: Preprocess, *, skip_bad: bool, tell: Tell) -> tuple[Sample, ...]:
    """Photos of ``tune_data`` to judge rungs on, looked at before anything is trained; empty where there is none."""
    if options.tune_data is None:
        return ()
    found = load_photos(options.tune_data, spec=spec, tell=tell)
    return pick_readable(found, TUNE_SAMPLES, spec, options.tune_data, skip_bad=skip_bad, tell=tell)


def _others(available: Sequence[Sample], calibration: Sequence[Sample]) -> tuple[Sample, ...]:
    """What was not picked, when that is enough to judge on."""
    taken = {id(sample) for sample in calibration}
    others = tuple(sample for sample in available if id(sample) not in taken)
    return others if len(others) >= LEAST_TO_JUDGE else ()


def _check_export(options: ExportSection) -> None:
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


def _check_layers(recipe: Recipe) -> None:
    """`UsageError` when the backbone lacks a layer of ``export.features``: found before it is trained."""
    model, channels = recipe.model, input_channels(recipe.model)
    preprocess, _ = preset(model.backbone, model.image_size, channels=channels, normalize=model.normalize)
    network = build(model.backbone, 2, image_size=model.image_size, channels=channels).eval()
    with_features(network, recipe.export.features, torch.zeros(2, channels, *preprocess.crop))


def _check_batch(recipe: Recipe) -> None:
    """`ExportError` when the backbone cannot take as many images as ``export.batch`` says: found before it is
    trained."""
    model, channels = recipe.model, input_channels(recipe.model)
    preprocess, normalize = preset(model.backbone, model.image_size, channels=channels, normalize=model.normalize)
    network = build(model.backbone, 2, image_size=model.image_size, channels=channels).eval()
    labels = (Label("a", "a"), Label("b", "b"))
    source = Source(model.backbone, network, labels, preprocess, normalize, checkpoint_sha256="")
    _ = capture(source, batch=recipe.export.images_at_once).program


def _check_batch_behind_a_head(recipe: Recipe, dataset: Dataset) -> None:
    """The same where only the photos say what the head is like."""
    source = source_of(untrained(dataset, recipe.model), recipe.model.backbone)
    _ = capture(source, batch=recipe.export.images_at_once).program


def _check_learned_from_labels(task: Task, options: ExportSection) -> None:
    """`UsageError` for ways to int8 that train on one label for each photo, where there is more than that."""
    if options.quantize == "qat" and task.heads:
        raise UsageError(f"qat says nothing in {task.name}", fix="--quantize distill, which needs no labels")


def _export_options(checkpoint: Exportable, photos: Photos, options: ExportSection) -> ExportOptions:
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


def _surgery(options: ExportSection) -> Surgery | None:
    if options.activation is None and not options.no_se:
        return None
    # Here, because it imports torchvision.
    from edgetl_export.surgery import Surgery

    return Surgery(options.activation, squeeze_excite=not options.no_se)


def _about_split(split: str) -> str:
    if split == "test":
        return "verified on the test split, which training never saw"
    return "verified on the validation split, which also chose the epoch: a test folder would be the stricter judge"
