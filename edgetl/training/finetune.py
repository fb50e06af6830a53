"""Fine-tuning: a data set and a backbone to a checkpoint.

Two ways that follow on each other or stand alone, as the strategy has it. While nothing before the head changes, its
input is computed once for every image, and the best head is found in seconds (`edgetl.training.head`). Otherwise images
go through the network, epoch by epoch (`edgetl.training.network`). What an option that was left open becomes, and why,
is in `edgetl.training.plan`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgetl.data.augmentation import AugmentOptions
from edgetl.data.dataset import Dataset
from edgetl.models.backbones import head_block
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.options import ModelOptions
from edgetl.models.training_history import Epoch, History
from edgetl.models.weights import (
    put_back,
)
from edgetl.tasks import task_of
from edgetl.tasks.task import Situation
from edgetl.training.features import Features, extract, frozen_backbone, has_separate_head
from edgetl.training.head import head_epochs
from edgetl.training.job import Job, Progress
from edgetl.training.network import train_network
from edgetl.training.options import TrainOptions
from edgetl.training.plan import Plan, plan
from edgetl.training.processes import ALONE, Processes, joined
from edgetl.training.resume import Keeping
from edgetl.training.start import Start, check_start, keep_statistics_current, open_start
from edgetl_export.device import device_named
from edgetl_export.memory import memory_reused
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_runtime.escaping import printable

__all__ = ["Trained", "finetune", "prepared"]


@dataclass(frozen=True, eq=False)
class Trained:
    """The best epoch as a checkpoint, how it came about, how long it took, and what the user should know.

    ``options`` are those that it was trained with, none left open.
    """

    checkpoint: Checkpoint
    history: History
    seconds: float
    notes: tuple[str, ...]
    options: TrainOptions


def finetune(
    data: Dataset,
    start: ModelOptions | Checkpoint,
    options: TrainOptions | None = None,
    *,
    augment: AugmentOptions | None = None,
    keeping: Keeping | None = None,
    track: Track = silent,
    tell: Tell = untold,
) -> Trained:
    """Train `start` on ``data.train``; ``data.val`` chooses the epoch that is kept. ``data.test`` is not looked at.

    A `Checkpoint` is trained further, with a new head when it has another number of labels. `augment` changes fields of
    the preset ``options.augment``. `keeping` says where the state is kept, and whether a training goes on from there.
    Under ``torchrun`` all processes train together and each returns the same. The same seed gives the same result on
    the same machine. Raises `UsageError` when training diverges at once, `edgetl.training.resume.Interrupted` when a
    signal ended it, and what `check_start` raises.
    """
    given, keeping = options or TrainOptions(), keeping or Keeping()
    options = _with_strategy(given, start, data.task)
    if isinstance(start, ModelOptions):
        check_start(start, options, data.task)
    device = device_named(options.device)
    keeping.check()
    with joined(device) as processes, torch.random.fork_rng(), memory_reused():
        job, opened = prepared(data, start, options, augment, device=device, processes=processes)
        job.track, job.tell = track, tell
        if given.strategy is None and options.trained_stride is not None:
            tell(f"strategy {options.strategy}: layers nearer to the image are pretrained; --strategy full trains all")
        for reason in job.plan.reasons:
            tell(reason)
        about = _about(job, opened)
        saved = keeping.read(about)
        progress = Progress() if saved is None else Progress.restored(saved["progress"])
        _train(job, progress, keeping, about, saved)
        put_back(job.model, progress.state)
    history = History(tuple(progress.epochs))
    checkpoint = Checkpoint.of(
        job.model,
        backbone=opened.backbone,
        labels=data.labels,
        preprocess=opened.spec,
        normalize=opened.normalize,
        hidden=opened.hidden,
        head=opened.head,
        task=data.task,
        training=_told_of(job, opened, history),
    )
    notes = (opened.note, *_unused(options, job.plan), *data.notes, *dict.fromkeys(job.notes))
    return Trained(checkpoint, history, progress.seconds, notes, job.plan.options)


def _with_strategy(options: TrainOptions, start: ModelOptions | Checkpoint, task: str) -> TrainOptions:
    random = isinstance(start, ModelOptions) and start.weights == "none"
    return options.with_strategy(task_of(task).strategy, random=random)


def prepared(
    data: Dataset,
    start: ModelOptions | Checkpoint,
    options: TrainOptions,
    augment: AugmentOptions | None = None,
    *,
    device: torch.device,
    processes: Processes = ALONE,
) -> tuple[Job, Start]:
    """The network to train with all that its training needs, no option left open. Seeds torch's generator."""
    torch.manual_seed(options.seed)
    options = _with_strategy(options, start, data.task)
    task_of(data.task).check_options(options)
    opened = open_start(start, data, options)
    keep_statistics_current(opened.model)
    planned = _planned(options, data, opened, device, processes)
    assert planned.options.augment is not None
    augmentation = (augment or AugmentOptions()).on(planned.options.augment)
    job = Job(opened.model, data, opened.spec, opened.normalize, opened.head, planned, augmentation, device, processes)
    return job, opened


def _planned(options: TrainOptions, data: Dataset, opened: Start, device: torch.device, processes: Processes) -> Plan:
    found = Situation(
        images=len(data.train),
        labels=len(data.labels),
        pretrained=opened.pretrained,
        on_gpu=device.type == "cuda",
        world=processes.world,
        separate_head=has_separate_head(opened.model),
        pixels=math.prod(opened.spec.crop),
    )
    return plan(options, found, task_of(data.task).defaults(found))


def _about(job: Job, opened: Start) -> dict[str, Any]:
    """What makes a training another one: an interrupted one is only resumed as the same."""
    weights = hashlib.sha256()
    for name, value in opened.model.state_dict().items():
        weights.update(name.encode() + value.numpy().tobytes())
    return {
        "photos": job.data.fingerprint,
        "weights": weights.hexdigest() if opened.pretrained else "random",
        "backbone": opened.backbone,
        "image size": list(opened.spec.crop),
        "channels": opened.spec.channels,
        "mode": None if opened.spec.mode == "crop" else opened.spec.mode,
        "head": None if opened.head is None else dataclasses.asdict(opened.head),
        "decode": None if opened.spec.decode == "exact" else opened.spec.decode,  # as where nothing was said of it
        "processes": job.processes.world,
        **dataclasses.asdict(job.plan.options),
        **{f"augment.{name}": value for name, value in dataclasses.asdict(job.augmentation).items()},
    }


def _train(
    job: Job, progress: Progress, keeping: Keeping, about: Mapping[str, Any], saved: Mapping[str, Any] | None
) -> None:
    """Head, network, or both; what `saved` has is not done again."""
    if saved is None and job.plan.head_alone:
        _train_head(job, progress)
        # The network's training starts from the best head.
        put_back(job.model, progress.state)
    if job.plan.network:
        train_network(job, progress, keeping, about, saved)


def _train_head(job: Job, progress: Progress) -> None:
    """The head alone, on features that are computed once. Augmented images would have to be computed again."""
    options, cpu = job.plan.options, torch.device("cpu")
    head = head_block(job.model)[1]
    train, val = _features(job)
    # Smoothing belongs to the network's training when there is one.
    smoothing = 0.0 if job.plan.network else options.label_smoothing or 0.0
    objective = job.objective(cpu, smoothing=smoothing)
    output = job.task.outputs[0]
    passes = head_epochs(
        head, train, objective, output=output, strength=job.plan.head_decay, epochs=job.plan.head_epochs
    )
    for number, train_loss in enumerate(passes, start=1):
        with torch.inference_mode():
            val_loss, val_top1 = objective.judged(objective.judge({output: head(val.values)}, val.targets))
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            job.notes.append(progress.diverged(train_loss, f"epoch {number} of the head", has_rate=False))
            break
        epoch = Epoch(number, train_loss, val_loss, val_top1, None, progress.seconds, phase="head", trained_stages=0)
        progress.judged(epoch, job.model)
        if progress.is_over(options.patience):
            break
    best = progress.best
    if best is not None:
        job.tell(f"head: {best} in epoch {best.epoch}, {progress.seconds:.0f} s")


def _features(job: Job) -> tuple[Features, Features]:
    """Of the training and of the validation images; each process computes a part of them."""
    backbone = frozen_backbone(job.model)
    found = []
    for samples in (job.data.train, job.data.val):
        pixels = job.pixels(job.processes.share(samples), "eval")
        own = extract(backbone, pixels, job.normalize, device=job.device, track=job.track)
        found.append(Features(job.processes.gathered(own.values), job.processes.gathered(own.targets)))
    return found[0], found[1]


def _told_of(job: Job, opened: Start, history: History) -> dict[str, Any]:
    """What the checkpoint says of how it was made."""
    data = job.data
    left_out = {"left_out": dict(data.left_out)} if data.left_out else {}
    notes = {"notes": list(data.notes)} if data.notes else {}
    counts = {"train": len(data.train), "val": len(data.val)}
    return {
        "data": {"name": data.name, "fingerprint": data.fingerprint, **counts, **left_out, **notes},
        "weights": opened.note,
        "options": _named(job.plan.options),
        "augmentation": dataclasses.asdict(job.augmentation),
        "chosen": list(job.plan.reasons),
        "processes": job.processes.world,
        "best": dataclasses.asdict(history.best),
        "torch": torch.__version__,
    }


def _named(options: TrainOptions) -> dict[str, Any]:
    """The options as plain values, the teacher by its name: where it lies on this disk goes into no report."""
    values = dataclasses.asdict(options)
    if (teacher := options.teacher_file) is not None:
        backbone, path = teacher
        values["teacher"] = printable(f"{backbone}:{path.name}" if backbone else path.resolve().name)
    return values


def _unused(options: TrainOptions, plan: Plan) -> tuple[str, ...]:
    """Options that were given, but mean nothing for a head on cached features."""
    if plan.network:
        return ()
    given = [name for name in ("lr",) if getattr(options, name) is not None]
    return tuple(f"{name} is not used: strategy head has no learning rate" for name in given)
