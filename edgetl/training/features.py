"""What a frozen backbone sees in each image: computed once, kept in memory, trained on in seconds."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from edgetl.data.loader import Normalizer, Pixels, evaluation_batches, filled
from edgetl.models.backbones import HiddenHead, head_block
from edgetl_export.lifting import NOT_TRACED
from edgetl_export.progress import Track
from edgetl_runtime.manifest import Normalize

__all__ = ["Features", "extract", "frozen_backbone", "has_separate_head"]

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Features:
    """``values`` (n, d) float32: what the head is given for each image; ``targets`` (n, ...): what it should give."""

    values: Tensor
    targets: Tensor


def has_separate_head(model: nn.Module) -> bool:
    """Whether the logits are a function of features, row by row: all backbones but SqueezeNet, which pools last."""
    return isinstance(head_block(model)[1], nn.Linear | HiddenHead)


def frozen_backbone(model: nn.Module) -> nn.Module:
    """A copy of `model` without its head, in eval mode, batch norms folded into the convolutions before them."""
    backbone = copy.deepcopy(model).eval()
    backbone.set_submodule(head_block(backbone)[0], nn.Identity())
    with contextlib.suppress(*NOT_TRACED):  # a network that cannot be folded is only slower
        backbone = fuse(backbone)
    # Channels last: three times as fast as torch's default layout on a CPU.
    return backbone.to(memory_format=torch.channels_last)


def extract(
    backbone: nn.Module,
    pixels: Pixels,
    normalize: Normalize,
    *,
    device: torch.device,
    track: Track,
) -> Features:
    """Run `backbone` (see `frozen_backbone`) over `pixels`, which are of the kind ``eval``: without augmentation."""
    backbone.to(device)
    normalized = Normalizer(normalize, device)
    values, labels = [], []
    batches = evaluation_batches(pixels, _BATCH)
    with torch.inference_mode():
        for images, truth in track(batches, what="features", total=-(-len(pixels) // _BATCH)):
            given = backbone(normalized(filled(images, _BATCH, device)))
            values.append(given[: len(truth)].float().cpu())
            labels.append(truth)
    return Features(torch.cat(values), torch.cat(labels))
