"""A backbone's feature maps with a head behind them."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["HeadedNetwork"]


class HeadedNetwork(nn.Module):
    """``backbone`` gives feature maps, ``head`` makes the raw outputs of them, by name.

    The weights of ``backbone`` are pretrained, those of ``head`` are not: it is what is trained first and fastest.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs for normalised `images` (N, C, H, W), each with the batch first."""
        outputs: dict[str, Tensor] = self.head(self.backbone(images))
        return outputs
