"""The heads of torchvision's detectors and segmentation networks, with raw outputs by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["BoxesOfSsdLite", "MasksOfDeepLab", "MasksOfLrAspp"]


class BoxesOfSsdLite(nn.Module):
    """Maps to ``boxes`` (N, A, 4) and ``logits`` (N, A, labels + 1), the background first."""

    def __init__(self, head: nn.Module) -> None:
        """`head` is torchvision's ``SSDLiteHead``: its layers are taken under their names."""
        super().__init__()
        self.regression_head = head.get_submodule("regression_head")
        self.classification_head = head.get_submodule("classification_head")

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of all levels, one below the other."""
        return {
            "boxes": _rows(self.regression_head, maps),
            "logits": _rows(self.classification_head, maps),
        }


def _rows(head: nn.Module, maps: Mapping[str, Tensor]) -> Tensor:
    layers, columns = head.get_submodule("module_list"), head.num_columns
    assert isinstance(layers, nn.ModuleList)
    assert isinstance(columns, int)
    values = [layer(level).permute(0, 2, 3, 1) for layer, level in zip(layers, maps.values(), strict=True)]
    return torch.cat([value.reshape(value.shape[0], -1, columns) for value in values], 1)


class MasksOfLrAspp(nn.Module):
    """Maps to ``logits`` (N, h, w, labels) at an eighth of the image's size."""

    def __init__(self, classifier: nn.Module) -> None:
        """`classifier` is torchvision's ``LRASPPHead``."""
        super().__init__()
        self.cbr, self.scale = classifier.get_submodule("cbr"), classifier.get_submodule("scale")
        self.low_classifier = classifier.get_submodule("low_classifier")
        self.high_classifier = classifier.get_submodule("high_classifier")

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As torchvision's, but for the last interpolation, which is the device's."""
        low, high = maps["low"], maps["high"]
        gated = self.cbr(high) * self.scale(high)
        wide = nn.functional.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return {"logits": (self.low_classifier(low) + self.high_classifier(wide)).permute(0, 2, 3, 1)}


class MasksOfDeepLab(nn.Sequential):
    """Maps to ``logits`` (N, h, w, labels) at the last stride of the backbone."""

    def __init__(self, classifier: nn.Module) -> None:
        """`classifier` is torchvision's ``DeepLabHead``, a sequence of layers."""
        super().__init__(*classifier.children())

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As torchvision's, but for the last interpolation, which is the device's."""
        value = maps["out"]
        for layer in self:
            value = layer(value)
        return {"logits": value.permute(0, 2, 3, 1)}
