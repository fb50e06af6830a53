"""Fine-tuning: a data set and a backbone to a checkpoint.

Two ways, one result. With the strategy ``head`` nothing before the head changes, so its input is computed once for
every image, and finding the best head is a convex problem that L-BFGS solves in seconds (`_train_head`). Otherwise
images go through the network, epoch by epoch, with AdamW (`_train_network`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetl.augment import augmented, epoch_draws
from edgetl.augmentation import Augmentation, AugmentOptions
from edgetl.backbones import build, head_of, preset, stages
from edgetl.batches import Normalizer, Pixels, ahead, evaluation_batches
from edgetl.checkpoint import Checkpoint
from edgetl.data import Dataset
from edgetl.features import extract, frozen_backbone, has_linear_head
from edgetl.history import Epoch, History
from edgetl.imbalance import class_weights
from edgetl.recipe import ModelOptions, TrainOptions
from edgetl.weights import State, check_weights_available, fit, load_weights, parse_weights
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = ["Trained", "check_start", "finetune"]

_HEAD_L2 = 0.06
"""Weight decay of a head on frozen features, relative to their mean square (so it means the same for any backbone)."""
_HEAD_EPOCHS = 60
_NETWORK_EPOCHS, _NETWORK_LR, _NETWORK_DECAY, _NETWORK_SMOOTHING = 20, 1e-3, 0.02, 0.1


@dataclass(frozen=True, eq=False)
class Trained:
    """The best epoch as a checkpoint, how it came about, how long it took, and what the user should know."""

    checkpoint: Checkpoint
    history: History
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Job:
    """What both ways of training need."""

    model: nn.Module
    data: Dataset
    spec: Preprocess
    normalize: Normalize
    options: TrainOptions
    augmentation: Augmentation
    device: torch.device
    pretrained: bool
    track: Track


def check_start(model: ModelOptions, options: TrainOptions) -> None:
    """Everything that can be known to be wrong before photos are read: names, sizes, weights, combinations, device.

    Raises `UsageError` or `CheckpointError`; takes a few seconds at most.
    """
    weights = parse_weights(model.weights)
    preset(model.backbone, model.image_size)
    if weights == "none" and options.strategy != "full":
        raise UsageError(
            f"strategy {options.strategy} keeps layers as they are, and with weights none they are random",
            fix="--weights imagenet or FILE, or --strategy full",
        )
    check_weights_available(model.backbone, weights)
    _device(options.device)


def finetune(
    data: Dataset,
    start: ModelOptions | Checkpoint,
    options: TrainOptions | None = None,
    *,
    augment: AugmentOptions | None = None,
    track: Track = silent,
) -> Trained:
    """Train `start` on ``data.train``; ``data.val`` chooses the epoch that is kept. ``data.test`` is not looked at.

    `augment` changes fields of the preset ``options.augment``.
    A `Checkpoint` is trained further, with a new head when it has another number of labels.
    The same seed gives the same result on the same machine. Raises `UsageError` when training diverges, and what
    `check_start` raises.
    """
    began = time.monotonic()
    options = options or TrainOptions()
    augmentation = (augment or AugmentOptions()).on(options.augment)
    if isinstance(start, ModelOptions):
        check_start(start, options)
    device = _device(options.device)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model, backbone, spec, normalize, note = _open(start, len(data.labels))
        pretrained = isinstance(start, Checkpoint) or start.weights != "none"
        job = _Job(model, data, spec, normalize, options, augmentation, device, pretrained, track)
        cached = options.strategy == "head" and has_linear_head(model)
        history = _train_head(job) if cached else _train_network(job)
    notes = (note, *(_unused(options) if cached else ()), *_left_out(data))
    about = {
        "data": {"name": data.name, "fingerprint": data.fingerprint, "train": len(data.train), "val": len(data.val)},
        "weights": note,
        "options": dataclasses.asdict(options),
        "augmentation": dataclasses.asdict(augmentation),
        "best": dataclasses.asdict(history.best),
        "torch": torch.__version__,
    }
    checkpoint = Checkpoint.of(
        model, backbone=backbone, labels=data.labels, preprocess=spec, normalize=normalize, training=about
    )
    return Trained(checkpoint, history, time.monotonic() - began, notes)


def _open(start: ModelOptions | Checkpoint, num_classes: int) -> tuple[nn.Module, str, Preprocess, Normalize, str]:
    if isinstance(start, Checkpoint):
        model = build(start.backbone, num_classes, image_size=start.preprocess.crop[0])
        note = f"checkpoint: {fit(model, start.state, start.backbone, where='the checkpoint')}"
        return model, start.backbone, start.preprocess, start.normalize, note
    weights = parse_weights(start.weights)
    spec, normalize = preset(start.backbone, start.image_size, which="best" if weights == "imagenet" else "first")
    model = build(start.backbone, num_classes, image_size=spec.crop[0])
    return model, start.backbone, spec, normalize, load_weights(model, start.backbone, weights)


def _train_head(job: _Job) -> History:
    """The head alone, on features that are computed once.

    An epoch is a step of L-BFGS over all training images: cross-entropy plus ``strength |W|^2 / 2``, convex, so that
    neither learning rate nor order nor seed matter. Augmented images would have to go through the backbone again.
    """
    options, head = job.options, head_of(job.model)[1]
    backbone = frozen_backbone(job.model)
    train, val = (
        extract(
            backbone,
            Pixels(samples, job.spec, kind="eval", track=job.track),
            job.normalize,
            device=job.device,
            track=job.track,
        )
        for samples in (job.data.train, job.data.val)
    )
    weights = class_weights(train.labels, len(job.data.labels)) if options.class_weights else None
    strength = _HEAD_L2 if options.weight_decay is None else options.weight_decay
    strength *= train.values.square().mean().item()
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    solver = torch.optim.LBFGS(
        head.parameters(), max_iter=1, max_eval=25, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss_and_gradients() -> Tensor:
        solver.zero_grad()
        logits = head(train.values)
        loss = F.cross_entropy(logits, train.labels, weight=weights, label_smoothing=options.label_smoothing or 0.0)
        loss = loss + 0.5 * strength * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def passes() -> Iterator[tuple[float, float | None]]:
        for _ in range(options.epochs or _HEAD_EPOCHS):
            loss: Tensor = solver.step(loss_and_gradients)  # type: ignore[no-untyped-call]
            yield loss.item(), None

    def judge() -> tuple[float, float]:
        with torch.inference_mode():
            return _loss_and_top1(head(val.values), val.labels)

    return _keep_best(job, passes(), judge)


def _train_network(job: _Job) -> History:
    """All that the strategy trains, on augmented images: AdamW, warm-up, cosine, mixed precision on a GPU."""
    options, device = job.options, job.device
    model = job.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = _freeze(model, options)
    normalized = Normalizer(job.normalize, device)
    train = Pixels(job.data.train, job.spec, kind="train", track=job.track)
    val = Pixels(job.data.val, job.spec, kind="eval", track=job.track)
    labels = train.labels
    weights = class_weights(labels, len(job.data.labels)).to(device) if options.class_weights else None
    smoothing = _NETWORK_SMOOTHING if options.label_smoothing is None else options.label_smoothing
    n_epochs = options.epochs or _NETWORK_EPOCHS
    n_steps = math.ceil(len(labels) / options.batch_size)
    optimizer = torch.optim.AdamW(_parameter_groups(job))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_cosine(n_epochs * n_steps, options.warmup))

    def one_pass(epoch: int) -> tuple[float, float | None]:
        model.train()
        for module in frozen:  # their batch norms keep the statistics that they came with
            module.eval()
        batches = _shuffled(len(labels), options, epoch)
        draws = epoch_draws(len(labels), options.seed, epoch)
        total = torch.zeros((), device=device)
        read = ahead(train, batches, pin=device.type == "cuda")
        for pixels, truth, indices in job.track(read, what=f"epoch {epoch}/{n_epochs}", total=n_steps):
            images = augmented(pixels.to(device), draws[indices].to(device), job.augmentation, job.spec.crop)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(normalized.levels(images))
            loss = F.cross_entropy(logits.float(), truth.to(device), weight=weights, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(truth)
        return float(total) / len(labels), float(schedule.get_last_lr()[0])

    def judge() -> tuple[float, float]:
        model.eval()
        outputs = []
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            for pixels, truth in evaluation_batches(val, options.batch_size):
                outputs.append((model(normalized(pixels)).float().cpu(), truth))
        return _loss_and_top1(*(torch.cat(part) for part in zip(*outputs, strict=True)))

    return _keep_best(job, (one_pass(epoch) for epoch in range(1, n_epochs + 1)), judge)


def _keep_best(
    job: _Job, passes: Iterator[tuple[float, float | None]], judge: Callable[[], tuple[float, float]]
) -> History:
    """Run `passes` (training loss and learning rate each) until validation stops improving; leave the best weights.

    `judge` gives validation loss and top-1 of the weights as they are.
    """
    began = time.monotonic()
    epochs: list[Epoch] = []
    best: Epoch | None = None
    state: State = {}
    for number, (train_loss, lr) in enumerate(passes, start=1):
        val_loss, val_top1 = judge()
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise UsageError(
                f"training diverged in epoch {number}: training loss {train_loss}, validation loss {val_loss}",
                fix="a lower --lr, or weights that fit" if lr is not None else "check the weights that it started from",
            )
        epochs.append(Epoch(number, train_loss, val_loss, val_top1, lr, time.monotonic() - began))
        if best is None or epochs[-1].better_than(best):
            best = epochs[-1]
            state = {key: value.detach().cpu().clone() for key, value in job.model.state_dict().items()}
        if job.options.patience is not None and number - best.epoch >= job.options.patience:
            break
    job.model.load_state_dict(state)
    return History(tuple(epochs))


def _loss_and_top1(logits: Tensor, truth: Tensor) -> tuple[float, float]:
    return float(F.cross_entropy(logits, truth)), float((logits.argmax(1) == truth).float().mean())


def _shuffled(n: int, options: TrainOptions, epoch: int) -> list[list[int]]:
    """The batches of an epoch; a last one of one image is left out: batch normalisation cannot train on it."""
    order = np.random.default_rng((options.seed, epoch)).permutation(n).tolist()
    batches = [order[start : start + options.batch_size] for start in range(0, n, options.batch_size)]
    return batches[:-1] if len(batches[-1]) == 1 else batches


def _freeze(model: nn.Module, options: TrainOptions) -> list[nn.Module]:
    """Let only the head and the last stages of the strategy be trained; returns the modules that are not."""
    if options.trained_stages is None:
        return []
    found = stages(model)
    first = len(found) - options.trained_stages
    if first < 0:
        raise UsageError(
            f"{options.strategy}: there are {len(found)} stages", fix=f"last:{len(found)} or less, or full"
        )
    model.requires_grad_(False)
    for module in [head_of(model)[1], *(module for stage in found[first:] for module in stage)]:
        module.requires_grad_(True)
    return [module for stage in found[:first] for module in stage]


def _parameter_groups(job: _Job) -> list[dict[str, Any]]:
    """Head first; pretrained layers at a lower rate; no weight decay for biases and normalisation."""
    options, head = job.options, head_of(job.model)[0]
    lr = options.lr or _NETWORK_LR
    decay = _NETWORK_DECAY if options.weight_decay is None else options.weight_decay
    ratio = options.backbone_lr_ratio if job.pretrained else 1.0
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(h, d): [] for h in (True, False) for d in (True, False)}
    for name, parameter in job.model.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith(f"{head}."), parameter.ndim > 1].append(parameter)
    return [
        {"params": members, "lr": lr if in_head else lr * ratio, "weight_decay": decay if decayed else 0.0}
        for (in_head, decayed), members in groups.items()
        if members
    ]


def _warm_up_and_cosine(n_steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at each step: linear up over the first `warmup` of them, half a cosine down to 0."""
    first = round(n_steps * warmup)

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / (first + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, n_steps - first))))

    return factor


def _unused(options: TrainOptions) -> tuple[str, ...]:
    """Options that were given, but mean nothing for a head on cached features."""
    given = [name for name in ("lr",) if getattr(options, name) is not None]
    return tuple(f"{name} is not used: strategy head has no learning rate" for name in given)


def _left_out(data: Dataset) -> tuple[str, ...]:
    return (f"{len(data.bad)} unreadable images were left out",) if data.bad else ()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", fix="device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
