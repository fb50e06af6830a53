"""SSDLite: boxes and labels predicted from maps of several strides by separable convolutions.

M. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, section 6.2. The network gives
raw outputs; what they mean is in the manifest (`decoder`) and is done by `edgetl_runtime.tasks.detection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgetl.models.headed import HeadedNetwork
from edgetl.models.taps import Taps
from edgetl_runtime.errors import UsageError
from edgetl_runtime.tasks.anchors import anchor_hash, make_anchors

__all__ = ["attach", "decoder", "grids_of"]

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""What deltas are multiplied by: of the centre, in sides of the anchor, and of the sides, as logarithms."""
SCORE, IOU, MOST = 0.4, 0.5, 100
"""Least score, most overlap of boxes of one label, and most boxes of a photo, unless `predict` is asked for others."""
_EXTRA_WIDTHS = (512, 256, 256, 128)
_STD = 0.03


def attach(
    trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
) -> nn.Module:
    """`trunk` without its classifier, with an SSDLite head.

    Args:
        trunk: A backbone's classifier, its weights in it.
        labels: How many there are, without the background.
        settings: ``strides`` of the backbone's maps, and ``shapes`` of the anchors: a list for each of these maps and
            of those that the head adds, each of half the size of the one before; ``steps``, the stride of each.
        crop: (height, width) of the input.
        channels: Of the input.

    Returns:
        A network: normalised float32 (N, C, H, W) to ``boxes`` (N, A, 4) and ``logits`` (N, A, labels + 1).

    Raises:
        UsageError: The backbone has no maps of these strides and sizes.
    """
    backbone = Taps(trunk, settings["strides"], crop=crop, channels=channels, expanded=True)
    head = _SsdLiteHead(backbone.channels, labels, [len(level) for level in settings["shapes"]])
    _check_grids(backbone, settings, crop, channels)
    return HeadedNetwork(backbone, head)


def decoder(settings: Mapping[str, Any], crop: tuple[int, int]) -> dict[str, Any]:
    """How the outputs are read: goes into the manifest."""
    grids, shapes = grids_of(settings, crop), [list(map(list, level)) for level in settings["shapes"]]
    steps = _steps(settings, grids, crop)
    return {
        "head": "ssdlite",
        "anchors": {
            "grids": grids,
            "shapes": shapes,
            **({} if steps is None else {"steps": steps}),
            "sha256": anchor_hash(make_anchors(grids, shapes, steps)),
        },
        "variances": list(VARIANCES),
        "scores": "softmax",
        "score": SCORE,
        "iou": IOU,
        "most": MOST,
    }


def grids_of(settings: Mapping[str, Any], crop: tuple[int, int]) -> list[list[int]]:
    """(rows, columns) of every map that boxes are predicted from."""
    grids = [[-(-side // stride) for side in crop] for stride in settings["strides"]]
    while len(grids) < len(settings["shapes"]):
        grids.append([(side + 1) // 2 for side in grids[-1]])
    return grids


def _steps(
    settings: Mapping[str, Any], grids: Sequence[Sequence[int]], crop: tuple[int, int]
) -> list[list[float]] | None:
    """How far it is from place to place, as shares of the sides; None where places divide the sides evenly.

    A map of 13 places of stride 32 on a side of 400 pixels sees every 32 pixels, not every 400 / 13: no convolution
    learns a difference that grows from place to place. Heads of before have no ``steps``: they learned the other.
    """
    steps = settings.get("steps")
    if steps is None or all([step * n for n in grid] == list(crop) for step, grid in zip(steps, grids, strict=True)):
        return None
    return [[step / side for side in crop] for step in steps]


class _SsdLiteHead(nn.Module):
    """Maps to ``boxes`` and ``logits``; it makes the maps that are smaller than the backbone's itself."""

    def __init__(self, channels: Sequence[int], labels: int, shapes: Sequence[int]) -> None:
        super().__init__()
        widths = [*channels, *_EXTRA_WIDTHS, *(_EXTRA_WIDTHS[-1:] * len(shapes))][: len(shapes)]
        self.classes = labels + 1
        self.extras = nn.ModuleList(_smaller(*pair) for pair in pairwise(widths[len(channels) - 1 :]))
        self.boxes = nn.ModuleList(_prediction(width, 4 * n) for width, n in zip(widths, shapes, strict=True))
        self.logits = nn.ModuleList(
            _prediction(width, self.classes * n) for width, n in zip(widths, shapes, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Raw outputs by name; boxes and logits are never one tensor, for their scales have nothing in common."""
        levels = list(maps)
        for layer in self.extras:
            levels.append(layer(levels[-1]))
        boxes = [_rows(layer(level), 4) for layer, level in zip(self.boxes, levels, strict=True)]
        logits = [_rows(layer(level), self.classes) for layer, level in zip(self.logits, levels, strict=True)]
        return {"boxes": torch.cat(boxes, 1), "logits": torch.cat(logits, 1)}


def _rows(values: Tensor, each: int) -> Tensor:
    """(N, shapes * each, h, w) as (N, h * w * shapes, each)."""
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, each)


def _block(wide: int, out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(wide, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU6())


def _smaller(wide: int, out: int) -> nn.Sequential:
    """A map of half the size."""
    inner = out // 2
    return nn.Sequential(_block(wide, inner), _block(inner, inner, 3, stride=2, groups=inner), _block(inner, out))


def _prediction(wide: int, out: int) -> nn.Sequential:
    return nn.Sequential(_block(wide, wide, 3, groups=wide), nn.Conv2d(wide, out, 1))


def _check_grids(backbone: nn.Module, settings: Mapping[str, Any], crop: tuple[int, int], channels: int) -> None:
    """Raises `UsageError` where the maps have other sizes than the anchors are made for."""
    training = backbone.training
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, channels, *crop))
    backbone.train(training)
    sizes = [list(level.shape[-2:]) for level in maps]
    expected = grids_of(settings, crop)[: len(sizes)]
    if sizes != expected:
        raise UsageError(
            f"the backbone's maps are {sizes}, head ssdlite needs {expected}",
            fix=f"--image-size {-(-crop[0] // 32) * 32}, or another backbone",
        )
