"""What a training starts from: a network with a head for the labels, its weights, its input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgetl.data.dataset import Dataset
from edgetl.models.backbones import add_hidden_layer, build, preset
from edgetl.models.checkpoint import Checkpoint, attached
from edgetl.models.heads import HeadSpec
from edgetl.models.options import ModelOptions
from edgetl.models.sources import PUBLISHED
from edgetl.models.weight_files import read_state
from edgetl.models.weights import check_weights_available, fit, infer_channels, load_weights, parse_weights
from edgetl.tasks import task_of
from edgetl.tasks.task import Task
from edgetl.training.options import TrainOptions
from edgetl.training.stepper import autocast_dtype
from edgetl_export.device import device_named
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = [
    "Start",
    "check_start",
    "input_channels",
    "input_spec",
    "keep_statistics_current",
    "open_start",
    "untrained",
]

_LEAST_MOMENTUM, _USUAL_MOMENTUM = 0.01, 0.1
"""What a batch norm takes of a batch into its statistics: the least that follows a training, and torch's own."""


@dataclass(frozen=True, eq=False)
class Start:
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
    options = options.with_strategy(task.strategy, random=weights == "none")
    _head_name(model, task)
    task.check_options(options)
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


def untrained(data: Dataset, model: ModelOptions) -> Checkpoint:
    """What training on `data` would start from, but with random weights: to look at what does not depend on them."""
    opened = open_start(dataclasses.replace(model, weights="none"), data, TrainOptions())
    return Checkpoint.of(
        opened.model,
        backbone=opened.backbone,
        labels=data.labels,
        preprocess=opened.spec,
        normalize=opened.normalize,
        head=opened.head,
        task=data.task,
    )


def open_start(start: ModelOptions | Checkpoint, data: Dataset, options: TrainOptions) -> Start:
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
        return Start(model, start.backbone, spec, start.normalize, note, True, hidden, None)
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
    return Start(model, start.backbone, spec, normalize, note, weights != "none", options.hidden, head)


def keep_statistics_current(model: nn.Module) -> None:
    """Let batch norms follow a training of some hundred steps.

    torchvision's MNASNets take 0.0003 of each batch into their statistics, for trainings of a million steps: after a
    thousand they are still those of the beginning, and the network is no better than chance in evaluation.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = module.momentum if module.momentum >= _LEAST_MOMENTUM else _USUAL_MOMENTUM


def _open_headed(start: Checkpoint, data: Dataset, task: Task) -> Start:
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
    return Start(model, start.backbone, start.preprocess, start.normalize, note, True, None, head)


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
