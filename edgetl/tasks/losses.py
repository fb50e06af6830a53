"""What the losses of labels and of masks have in common: focus, and a teacher's answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["distillation_loss", "focused"]

_FOCUS = 2.0
"""Gamma of the focal loss, as Lin et al. 2017 recommend, https://arxiv.org/abs/1708.02002."""


def focused(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """`loss` (B, ...), less where the label is right anyway.

    Args:
        loss: Cross-entropies of `logits`.
        logits: (B, labels, ...).
        labels: int64 (B, ...).
    """
    right = torch.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    return loss * (1 - right) ** _FOCUS


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence (B, ...) of the softened answers (B, labels, ...), times the squared temperature.

    Hinton et al. 2015, arXiv:1503.02531.
    """
    soft, wanted = (F.log_softmax(values / temperature, dim=1) for values in (logits, teacher))
    return temperature**2 * F.kl_div(soft, wanted, reduction="none", log_target=True).sum(1)
