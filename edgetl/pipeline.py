"""The order of the stages: photos -> checkpoint -> bundle -> report. The only file that knows it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgetl.data.dataset import Dataset, Sample, pick, pick_readable
from edgetl.data.listing import Listing
from edgetl.export_options import (
    check_batch_behind_a_head,
    check_export,
    check_graph,
    check_layers,
    check_says_something,
    note_on_int8,
    options_of_export,
)
from edgetl.first_look import look_at_photos
from edgetl.models.checkpoint import CHECKPOINT_FILE
from edgetl.models.sources.foreign import Exportable
from edgetl.models.training_history import HISTORY_FILE
from edgetl.photos_to_export import TUNE_SAMPLES, Photos, available_photos, other_photos, tune_photos
from edgetl.recipe import ExportSection, Recipe, verify_options
from edgetl.reports.writing import ReportFiles, write_report
from edgetl.tasks import task_of
from edgetl.training.finetune import Trained, finetune
from edgetl.training.lr_finder import LrRange, lr_range
from edgetl.training.qat import train_quantized
from edgetl.training.rank import is_first
from edgetl.training.resume import Keeping, unfinished
from edgetl.training.start import check_start, input_spec
from edgetl.training.tensorboard_log import check_log, write_log
from edgetl.verify.bundle import REFERENCE, Outcome, source_of, verify_bundle
from edgetl.verify.measure.original_outputs import RecordingOriginal
from edgetl.verify.verify import RunFacts, verify
from edgetl_export import CalibrationSamples, Exported, export
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_export.staging import check_destination, staged
from edgetl_runtime.batch_sizes import batch_text
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import UsageError
from edgetl_runtime.escaping import printable

__all__ = [
    "Outcome",
    "check_all",
    "export_checkpoint",
    "find_rate",
    "photos_of",
    "run",
    "train",
    "train_along",
    "train_to",
    "verify_bundle",
]

GOLDEN_SAMPLES = 16
BUNDLE_FILE = "manifest.json"


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
    check_export(recipe.export)
    task = task_of(recipe.data.task)
    check_says_something(task, recipe.export)
    spec = input_spec(recipe.model, task)
    chosen_to_tune = tune_photos(recipe.export, spec, skip_bad=recipe.data.skip_bad, tell=tell)
    if recipe.export.features:
        if task.heads:
            raise UsageError(f"features say nothing in {task.name}", fix="leave --features out")
        check_layers(recipe)
    if (note := note_on_int8(recipe.export)) is not None:
        tell(note)
    if recipe.export.images_at_once != 1:
        tell(f"files take {batch_text(recipe.export.images_at_once)} (training steps have --batch-size)")
    if not task.heads:
        check_graph(recipe)
    judging = verify_options(recipe)
    keeping = Keeping(unfinished(out), resume)
    keeping.check(force=force)
    with keeping.through():
        dataset, trained = train(recipe, dataset=dataset, listing=listing, keeping=keeping, track=track, tell=tell)
        held_out, split = dataset.held_out
        calibration = pick(dataset.train, recipe.export.calibration_samples, recipe.train.seed)
        photos = Photos(
            calibration=calibration,
            tune=chosen_to_tune or other_photos(dataset.train, calibration),
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
        check_batch_behind_a_head(recipe, dataset)
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
    check_export(recipe.export)
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
    check_export(options)
    check_says_something(task_of(checkpoint.task), options)
    if (note := note_on_int8(options)) is not None:
        tell(note)
    if options.images_at_once != 1:
        tell(f"files take {batch_text(options.images_at_once)}")
    chosen_to_tune = tune_photos(options, checkpoint.preprocess, skip_bad=skip_bad, tell=tell)

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
        available_photos(calibration, checkpoint, options, skip_bad=skip_bad, tell=tell)
        if isinstance(calibration, Path)
        else calibration
    )
    calibration_photos = take(available, options.calibration_samples)
    others = () if options.max_drop is None or chosen_to_tune else other_photos(available, calibration_photos)
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


def _write_bundle(
    checkpoint: Exportable, photos: Photos, options: ExportSection, folder: Path, *, name: str, track: Track
) -> Exported:
    exported = export(
        source_of(checkpoint, name, options.features, options.in_graph),
        CalibrationSamples([sample.source for sample in photos.calibration], checkpoint.preprocess),
        [sample.source for sample in photos.golden],
        folder,
        options_of_export(checkpoint, photos, options),
        track=track,
    )
    (folder / REFERENCE).mkdir()
    checkpoint.write(folder / REFERENCE)
    return exported


def _about_split(split: str) -> str:
    if split == "test":
        return "verified on the test split, which training never saw"
    return "verified on the validation split, which also chose the epoch: a test folder would be the stricter judge"
