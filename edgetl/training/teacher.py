"""A network whose answers another one learns: any torchvision backbone with weights, or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgetl.data.loader import Normalizer
from edgetl.models.checkpoint import Checkpoint
from edgetl.training.options import TrainOptions
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label

__all__ = ["Teacher", "open_teacher"]


class Teacher:
    """Logits (B, labels) in the order of the student's labels, of grey levels (B, C, H, W) as the student sees them."""

    def __init__(self, network: nn.Module, normalized: Normalizer, order: Sequence[int], device: torch.device) -> None:
        self._network = network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._normalized = normalized
        self._order = torch.tensor(order, device=device)

    @torch.inference_mode()
    def __call__(self, levels: Tensor) -> Tensor:
        logits: Tensor = self._network(self._normalized.levels(levels))
        return logits[:, self._order]


def open_teacher(options: TrainOptions, labels: Sequence[Label], channels: int, device: torch.device) -> Teacher | None:
    """The teacher that `options` name, None when they name none.

    Raises `CheckpointError` when it cannot be read and `UsageError` when it does not know all of the labels, or takes
    images of other `channels`.
    """
    named = options.teacher_file
    if named is None:
        return None
    backbone, path = named
    checkpoint = Checkpoint.load(path) if backbone is None else _from_weights(backbone, path, labels)
    if checkpoint.preprocess.channels != channels:
        raise UsageError(
            f"the teacher {options.teacher} takes images of {checkpoint.preprocess.channels} channels, not {channels}",
            fix=f"a teacher for the same images: edgetl train --channels {channels}",
        )
    places = {label.id: place for place, label in enumerate(checkpoint.labels)}
    unknown = [label.id for label in labels if label.id not in places]
    if unknown:
        raise UsageError(
            f"the teacher {options.teacher} does not know the labels {', '.join(unknown[:5])}",
            fix="a teacher trained on the same labels: edgetl train --backbone NAME --out DIR",
        )
    normalized = Normalizer(checkpoint.normalize, device)
    return Teacher(checkpoint.build(), normalized, [places[label.id] for label in labels], device)


def _from_weights(backbone: str, path: Path, labels: Sequence[Label]) -> Checkpoint:
    """Plain weights have no labels: they must be for as many, and are taken to be in the same order."""
    plain = Checkpoint.from_weights(path, backbone=backbone)
    if len(plain.labels) != len(labels):
        raise UsageError(
            f"the teacher {path.name} gives {len(plain.labels)} logits for {len(labels)} labels",
            fix="a teacher trained on the same labels, as a checkpoint folder",
        )
    return Checkpoint.from_weights(path, backbone=backbone, labels=tuple(labels))
