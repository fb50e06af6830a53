"""The loss of an image: cross-entropy with smoothing, class weights or focus, mixed labels, and a teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetl.tasks.losses import distillation_loss, focused
from edgetl.tasks.task import Targets
from edgetl_runtime.tasks.classification import LOGITS

__all__ = ["CrossEntropy", "class_weights"]


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The `edgetl.tasks.task.Objective`: logits (B, labels) to one loss (B,) for every image, in nats.

    ``class_weights`` (labels,) multiply the losses; ``focal`` counts images that are right less. The teacher's answers
    count ``teacher_weight``, the labels the rest.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None = None
    focal: bool = False
    teacher_weight: float = 0.5
    temperature: float = 2.0

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """Float32 whatever the logits are."""
        logits = outputs[LOGITS].float()
        loss = self._of_labels(logits, targets.values)
        if targets.share < 1.0:
            others = self._of_labels(logits, targets.values.flip(0))
            loss = targets.share * loss + (1 - targets.share) * others
        if targets.teacher is None:
            return loss
        soft = distillation_loss(logits, targets.teacher.float(), self.temperature)
        return (1 - self.teacher_weight) * loss + self.teacher_weight * soft

    def judge(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """(1, 3): the sum of plain cross-entropies, how many are right, and of how many."""
        logits = outputs[LOGITS]
        total = F.cross_entropy(logits, targets, reduction="sum").double()
        right, n = (logits.argmax(1) == targets).sum().double(), torch.full_like(total, len(targets))
        return torch.stack((total, right, n))[None]

    def judged(self, rows: Tensor) -> tuple[float, float]:
        """Mean cross-entropy, top-1."""
        total, right, n = rows.sum(0).tolist()
        return total / n, right / n

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(
            logits, labels, weight=self.class_weights, label_smoothing=self.smoothing, reduction="none"
        )
        return focused(loss, logits, labels) if self.focal else loss


def class_weights(labels: Tensor, n: int) -> Tensor:
    """float32 (n,), inversely proportional to how often each of `n` labels occurs; 1 on average over the images.

    `labels` is int64 (images,). A label without an image weighs 0.
    """
    counts = torch.bincount(labels, minlength=n)
    return torch.where(counts > 0, len(labels) / (n * counts.clamp(min=1)).float(), 0.0)
