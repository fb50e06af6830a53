"""The loss of a detector: SSD's, with torchvision's matcher and box coder.

W. Liu et al., "SSD: single shot multibox detector", ECCV 2016: smooth L1 of the matched anchors' deltas, and
cross-entropy of these and of the three times as many other anchors that are most wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import box_iou

__all__ = ["SsdLoss"]

_MATCHED = 0.5
"""Least overlap of an anchor with a box that it is to find; the best anchor of a box is always matched."""
_IGNORED = 0.4
"""Overlap with a box that does not count (a crowd, a difficult or half hidden object) from which an anchor learns
nothing."""
_NEGATIVES = 3


@dataclass(frozen=True, eq=False)
class SsdLoss:
    """Outputs and targets of a batch to one loss (B,) for every image.

    ``anchors`` is (A, 4): centre and sides, in pixels of the input; ``smoothing`` is the share of a label that goes to
    the others.
    """

    anchors: Tensor
    variances: tuple[float, ...]
    smoothing: float = 0.0

    def __call__(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """`targets` (B, M, 6): x1, y1, x2, y2, label, flag; rows of label -1 are no boxes."""
        boxes, logits = outputs["boxes"].float(), outputs["logits"].float()
        halves = self.anchors[:, 2:] / 2
        corners = torch.cat((self.anchors[:, :2] - halves, self.anchors[:, :2] + halves), 1)
        coder = BoxCoder(tuple(1 / v for v in self.variances))
        classes, aims = [], []
        with torch.no_grad():
            for rows in targets:
                class_, box = self._aims(rows, corners, coder)
                classes.append(class_)
                aims.append(box)
            wanted = torch.stack(classes)
            aim = torch.stack(aims)
        positive = wanted > 0
        regression = F.smooth_l1_loss(boxes, aim, reduction="none").sum(2) * positive
        losses = F.cross_entropy(
            logits.flatten(0, 1), wanted.clamp(min=0).flatten(), reduction="none", label_smoothing=self.smoothing
        )
        entropy = losses.view(wanted.shape)
        hard = self._hardest(entropy.detach(), positive, wanted == 0)
        per_image = (regression + entropy * (positive | hard)).sum(1)
        # So that the mean over the images is the sum over the boxes by their number, as in the paper.
        return per_image * (len(targets) / positive.sum().clamp(min=1))

    def _aims(self, rows: Tensor, corners: Tensor, coder: BoxCoder) -> tuple[Tensor, Tensor]:
        """Of one image: the class of every anchor (0 the background, -1 none) and its deltas."""
        wanted = torch.zeros(len(corners), dtype=torch.int64, device=corners.device)
        aim = torch.zeros_like(corners)
        rows = rows[rows[:, 4] >= 0]
        blurred, clear = rows[rows[:, 5] > 0], rows[rows[:, 5] == 0]
        if len(blurred):
            wanted[(box_iou(blurred[:, :4], corners) >= _IGNORED).any(0)] = -1
        if len(clear):
            matched = SSDMatcher(_MATCHED)(box_iou(clear[:, :4], corners))
            hit = matched >= 0
            wanted[hit] = clear[matched[hit], 4].long() + 1
            aim[hit] = coder.encode_single(clear[matched[hit], :4], corners[hit])
        return wanted, aim

    @staticmethod
    def _hardest(entropy: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The anchors of the background that are most wrong: three for each that is matched, at least a few."""
        n = (_NEGATIVES * positive.sum(1, keepdim=True)).clamp(min=_NEGATIVES)
        rank = entropy.masked_fill(~negative, -1.0).argsort(1, descending=True).argsort(1)
        return negative & (rank < n)
