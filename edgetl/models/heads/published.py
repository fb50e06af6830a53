"""The head that comes with torchvision's segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.heads.mask_layers import decoder_of_masks
from edgetl_runtime.errors import UsageError

__all__ = ["attach", "decoder"]

decoder = decoder_of_masks


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    """`trunk` itself, which has its head already. Raises `UsageError` for one that has none."""
    if not isinstance(trunk, HeadedNetwork):
        raise UsageError(
            f"{type(trunk).__name__} comes without a head", fix="leave --head out, or name one that stands alone"
        )
    return trunk
