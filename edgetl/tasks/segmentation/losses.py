"""The loss of a mask, and what an epoch is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetl.tasks.losses import distillation_loss, focused
from edgetl.tasks.segmentation.mask_files import IGNORED
from edgetl.tasks.segmentation.overlap import mean_iou
from edgetl.tasks.task import Targets
from edgetl_runtime.tasks.segmentation import LOGITS

__all__ = ["MaskObjective", "label_weights"]

_FARTHEST = 10.0
"""Times the weight of the commonest label, at most: a label of a few pixels is not to be all that is learned."""


@dataclass(frozen=True, eq=False)
class MaskObjective:
    """Cross-entropy of every pixel, on logits interpolated to the size of the masks.

    ``weights`` (labels,) multiply the losses of pixels by their label; ``focal`` counts pixels that are right less, and
    ``dice`` adds how little the labels overlap with the truth. The teacher's answers count ``teacher_weight``, the
    masks the rest.
    """

    labels: int
    smoothing: float = 0.0
    weights: Tensor | None = None
    focal: bool = False
    dice: bool = False
    teacher_weight: float = 0.5
    temperature: float = 2.0

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """The loss of each image, (B,) in nats, float32 whatever the logits are.

        Args:
            outputs: ``logits`` (B, h, w, labels).
            targets: ``values`` uint8 (B, height, width); pixels of `IGNORED` do not count.
        """
        logits = _channels_first(outputs)
        loss = self._of_masks(logits, targets.values)
        if targets.share < 1.0:
            loss = targets.share * loss + (1 - targets.share) * self._of_masks(logits, targets.values.flip(0))
        if targets.teacher is None:
            return loss
        soft = self._of_teacher(logits, targets.teacher)
        return (1 - self.teacher_weight) * loss + self.teacher_weight * soft

    def judge(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """float64 (1, 2 + labels * labels): the sum of the losses of a batch, its pixels, and its confusion matrix."""
        logits = _interpolated(_channels_first(outputs), targets)
        counted = targets != IGNORED
        losses = F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="sum")
        pairs = targets[counted].long() * self.labels + logits.argmax(1)[counted]
        confusion = torch.bincount(pairs, minlength=self.labels**2)
        return torch.cat((losses[None].double(), counted.sum()[None].double(), confusion.double()))[None]

    def judged(self, rows: Tensor) -> tuple[float, float]:
        """Mean loss of a pixel in nats, and mIoU, of all rows together."""
        total = rows.sum(0).cpu()
        confusion = total[2:].reshape(self.labels, self.labels)
        counts = torch.stack([confusion.diag(), confusion.sum(1), confusion.sum(0)]).numpy()
        return float(total[0] / total[1].clamp(min=1.0)), float(mean_iou(counts))

    def _of_masks(self, logits: Tensor, masks: Tensor) -> Tensor:
        values, truth = _interpolated(logits, masks), masks.long()
        loss = F.cross_entropy(
            values,
            truth,
            weight=self.weights,
            ignore_index=IGNORED,
            label_smoothing=self.smoothing,
            reduction="none",
        )
        counted = truth != IGNORED
        if self.focal:
            loss = focused(loss, values, truth.where(counted, 0))
        mean = loss.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
        return mean + _dice_loss(values, truth, counted) if self.dice else mean

    def _of_teacher(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """At the places of the map."""
        wanted = teacher.float().permute(0, 3, 1, 2)
        if wanted.shape[2:] != logits.shape[2:]:
            wanted = F.interpolate(wanted, size=logits.shape[2:], mode="bilinear", align_corners=False)
        return distillation_loss(logits, wanted, self.temperature).mean((1, 2))


def label_weights(counts: Tensor) -> Tensor:
    """float32 (labels,): the cube root of how rare each label is; 1 on average over the pixels.

    Measured on 222 cats, a fifth of the pixels: with the square root the logits of the cat are 0.4 too large for the
    best mIoU.

    Args:
        counts: Pixels of each label, (labels,). A label without any weighs 0.
    """
    pixels = counts.double()
    rare = (pixels.max() / pixels.clamp(min=1.0)).pow(1 / 3).clamp(max=_FARTHEST)
    weights = torch.where(pixels > 0, rare, 0.0)
    return (weights * pixels.sum() / (weights * pixels).sum()).float()


def _dice_loss(logits: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """(B,): 1 less the mean Dice coefficient of the labels that an image has, with probabilities for its mask.

    Milletari et al. 2016, arXiv:1606.04797; a label that an image lacks has none there.
    """
    found = torch.softmax(logits, 1) * counted[:, None]
    wanted = F.one_hot(truth.where(counted, 0), logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    area = wanted.sum((2, 3))
    dice = 2 * (found * wanted).sum((2, 3)) / (found.sum((2, 3)) + area).clamp(min=1.0)
    there = area > 0
    return ((1 - dice) * there).sum(1) / there.sum(1).clamp(min=1)


def _channels_first(outputs: Mapping[str, Tensor]) -> Tensor:
    return outputs[LOGITS].float().permute(0, 3, 1, 2)


def _interpolated(logits: Tensor, masks: Tensor) -> Tensor:
    """(B, labels, height, width) at the pixels of `masks`, as the device interpolates."""
    if logits.shape[2:] == masks.shape[1:]:
        return logits
    return F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)
