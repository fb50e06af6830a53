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
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgetl.data.augmentation import AugmentOptions
from edgetl.data.dataset import Dataset
from edgetl.models.backbones import add_hidden_layer, build, head_block, preset
from edgetl.models.checkpoint import Checkpoint, attached
from edgetl.models.heads import HeadSpec
from edgetl.models.options import ModelOptions
from edgetl.models.sources import PUBLISHED
from edgetl.models.training_history import Epoch, History
from edgetl.models.weight_files import read_state
from edgetl.models.weights import (
    check_weights_available,
    fit,
    infer_channels,
    load_weights,
    parse_weights,
    put_back,
)
from edgetl.tasks import task_of
from edgetl.tasks.task import Situation, Task
from edgetl.training.features import Features, extract, frozen_backbone, has_separate_head
from edgetl.training.head import head_epochs
from edgetl.training.job import Job, Progress
from edgetl.training.network import train_network
from edgetl.training.options import TrainOptions
from edgetl.training.plan import Plan, plan
from edgetl.training.processes import ALONE, Processes, joined
from edgetl.training.resume import Keeping
from edgetl.training.stepper import autocast_dtype
from edgetl_export.device import device_named
from edgetl_export.memory import memory_reused
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = ["Opened", "Trained", "check_start", "finetune", "input_channels", "input_spec", "prepared", "untrained"]


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


@dataclass(frozen=True, eq=False)
class Opened:
    """A network to start from, and what is known of it. ``note`` says what was loaded."""

    model: nn.Module
    backbone: str
    spec: Preprocess
    normalize: Normalize
    note: str
    pretrained: bool
    hidden: int | None
    head: HeadSpec | None


def check_start(model: ModelOptions, options: TrainOptions, task_name: str = "classification") -> None:
    """Everything that can be known to be wrong before photos are read: names, sizes, weights, combinations, device.

    Raises `UsageError` or `CheckpointError`; takes a few seconds at most.
    """
    task, weights = task_of(task_name), parse_weights(model.weights)
    options = options.with_strategy(task.strategy)
    _head_name(model, task)
    if options.qat and task.heads:
        raise UsageError(f"qat says nothing in {task.name}", fix="leave --qat out; --quantize distill needs no labels")
    size = task.image_size if model.image_size is None else model.image_size
    channels = 3 if model.channels is None else model.channels
    preset(model.backbone, size, channels=channels, normalize=model.normalize)
    if weights == "none" and options.strategy != "full":
        raise UsageError(
            f"strategy {options.strategy} keeps layers as they are, and with weights none they are random",
            fix="--weights imagenet or FILE, or --strategy full",
        )
    check_weights_available(model.backbone, weights)
    named = options.teacher_file
    if named is not None and not named[1].exists():
        raise CheckpointError(f"no teacher at {named[1]}", fix="a checkpoint folder, or BACKBONE:WEIGHTS_FILE")
    if named is not None and not options.trains_network:
        raise UsageError("strategy head does not learn from a teacher", fix="--strategy head-then-full or last:N")
    autocast_dtype(options.precision, device_named(options.device))


def input_channels(model: ModelOptions) -> int:
    """Channels of an image: those asked for, else those that a weights file is for, else 3."""
    weights = parse_weights(model.weights)
    if model.channels is None and isinstance(weights, Path):
        return infer_channels(read_state(weights).state, model.backbone)
    return 3 if model.channels is None else model.channels


def input_spec(model: ModelOptions, task: Task) -> Preprocess:
    """How images become the network's input."""
    return _input(model, task, input_channels(model))[0]


def _input(model: ModelOptions, task: Task, channels: int) -> tuple[Preprocess, Normalize]:
    return preset(
        model.backbone,
        task.image_size if model.image_size is None else model.image_size,
        which="best" if parse_weights(model.weights) == "imagenet" else "first",
        channels=channels,
        decode=model.decode,
        mode=task.mode if model.resize is None else model.resize,
        normalize=model.normalize,
    )


def _head_name(model: ModelOptions, task: Task) -> str | None:
    """The head that is asked for; None for the backbone's own classifier. Raises `UsageError` for one of others."""
    own = PUBLISHED.get(model.backbone)
    if own is not None and (own not in task.heads or model.head not in (None, own)):
        raise UsageError(
            f"{model.backbone} comes with a head of its own, {own}, not for {task.name} with {model.head or 'another'}",
            fix="another --task, or --backbone mobilenet_v3_large with --head",
        )
    alone = [head for head in task.heads if head not in PUBLISHED.values()]
    if model.head is None or model.head in alone or own is not None:
        return own or model.head or next(iter(alone), None)
    known = f"{task.name} has {', '.join(alone)}" if task.heads else f"leave --head out: {task.name} has none"
    raise UsageError(f"{task.name} has no head {model.head!r}", fix=known)


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
    options, keeping = (options or TrainOptions()).with_strategy(task_of(data.task).strategy), keeping or Keeping()
    if isinstance(start, ModelOptions):
        check_start(start, options, data.task)
    device = device_named(options.device)
    keeping.check()
    with joined(device) as processes, torch.random.fork_rng(), memory_reused():
        job, opened = prepared(data, start, options, augment, device=device, processes=processes)
        job.track, job.tell = track, tell
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


def prepared(
    data: Dataset,
    start: ModelOptions | Checkpoint,
    options: TrainOptions,
    augment: AugmentOptions | None = None,
    *,
    device: torch.device,
    processes: Processes = ALONE,
) -> tuple[Job, Opened]:
    """The network to train with all that its training needs, no option left open. Seeds torch's generator."""
    torch.manual_seed(options.seed)
    options = options.with_strategy(task_of(data.task).strategy)
    opened = _open(start, data, options)
    planned = _planned(options, data, opened, device, processes)
    assert planned.options.augment is not None
    augmentation = (augment or AugmentOptions()).on(planned.options.augment)
    job = Job(opened.model, data, opened.spec, opened.normalize, opened.head, planned, augmentation, device, processes)
    return job, opened


def untrained(data: Dataset, model: ModelOptions) -> Checkpoint:
    """What training on `data` would start from, but with random weights: to look at what does not depend on them."""
    opened = _open(dataclasses.replace(model, weights="none"), data, TrainOptions())
    return Checkpoint.of(
        opened.model,
        backbone=opened.backbone,
        labels=data.labels,
        preprocess=opened.spec,
        normalize=opened.normalize,
        head=opened.head,
        task=data.task,
    )


def _open(start: ModelOptions | Checkpoint, data: Dataset, options: TrainOptions) -> Opened:
    """A network with a head for the labels of `data` and whatever weights there are for the rest."""
    num_classes, task = len(data.labels), task_of(data.task)
    if isinstance(start, Checkpoint):
        if start.head is not None or task.heads:
            return _open_headed(start, data, task)
        spec = start.preprocess
        model = build(start.backbone, num_classes, image_size=spec.crop, channels=spec.channels)
        hidden = options.hidden if options.hidden is not None else start.hidden
        if hidden is not None and hidden == start.hidden:
            add_hidden_layer(model, hidden)
        elif hidden != start.hidden:
            raise UsageError(
                f"the checkpoint's head has a hidden layer of {start.hidden}, asked for {hidden}",
                fix="leave hidden out",
            )
        note = f"checkpoint: {fit(model, start.state, start.backbone, where='the checkpoint')}"
        return Opened(model, start.backbone, spec, start.normalize, note, True, hidden, None)
    weights, channels = parse_weights(start.weights), input_channels(start)
    spec, normalize = _input(start, task, channels)
    model = build(start.backbone, num_classes, image_size=spec.crop, channels=channels)
    note = load_weights(model, start.backbone, weights)
    name, head = _head_name(start, task), None
    if name is not None:
        if options.hidden is not None:
            raise UsageError(f"hidden says nothing of the head {name}", fix="leave --hidden out")
        head = task.head(data, name, spec)
    if head is not None:
        model = attached(model, head, num_classes, spec)
    elif options.hidden is not None:
        add_hidden_layer(model, options.hidden)
    return Opened(model, start.backbone, spec, normalize, note, weights != "none", options.hidden, head)


def _open_headed(start: Checkpoint, data: Dataset, task: Task) -> Opened:
    """A checkpoint of a network with a head of its own: trained further, with a new head where the labels differ."""
    if start.head is None or start.task != task.name or start.head.name not in task.heads:
        raise UsageError(
            f"the checkpoint was trained for {start.task}, not for {task.name}",
            fix="start from a backbone's weights: --backbone NAME --weights FILE",
        )
    model, head, note = start.build(), start.head, "checkpoint: loaded whole"
    if [label.id for label in start.labels] != [label.id for label in data.labels]:
        fresh = task.head(data, head.name, start.preprocess)
        assert fresh is not None
        head = fresh
        trunk = build(start.backbone, 2, image_size=start.preprocess.crop, channels=start.preprocess.channels)
        other = attached(trunk, head, len(data.labels), start.preprocess)
        other.get_submodule("backbone").load_state_dict(model.get_submodule("backbone").state_dict())
        model, note = other, f"checkpoint: head replaced by one for {len(data.labels)} labels"
    return Opened(model, start.backbone, start.preprocess, start.normalize, note, True, None, head)


def _planned(options: TrainOptions, data: Dataset, opened: Opened, device: torch.device, processes: Processes) -> Plan:
    found = Situation(
        images=len(data.train),
        labels=len(data.labels),
        pretrained=opened.pretrained,
        on_gpu=device.type == "cuda",
        world=processes.world,
        separate_head=has_separate_head(opened.model),
    )
    return plan(options, found, task_of(data.task).defaults(found))


def _about(job: Job, opened: Opened) -> dict[str, Any]:
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


def _told_of(job: Job, opened: Opened, history: History) -> dict[str, Any]:
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
