"""Detectors and segmenters to measure: normalised float32 (N, 3, H, W) in, raw outputs by name.

Nothing is decoded and nothing is resized to the photo: outputs are what a task's bundle has. MobileNetV2 has its
ImageNet weights; heads have those of a file that a training wrote, or random ones whose batch norms saw photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torchvision.models import detection, mobilenet_v2, segmentation

__all__ = ["NETWORKS", "Network", "with_weights"]

WEIGHTS = "weights/mobilenet_v2_imagenet1k.safetensors"
CLASSES = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, clips: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU6()] if clips else []))


def _separable(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(_conv(i, i, 3, groups=i), nn.Conv2d(i, o, 1))


def _smaller(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(_conv(i, o // 2), _conv(o // 2, o // 2, 3, 2, groups=o // 2), _conv(o // 2, o))


class SsdLite(nn.Module):
    """SSDLite on MobileNetV2: six maps from stride 16 on (Sandler et al., "MobileNetV2", CVPR 2018, section 6.2)."""

    def __init__(self, features: nn.Sequential, classes: int = CLASSES, shapes: int = 6) -> None:
        super().__init__()
        self.classes = classes
        self.stem, self.expand = features[:14], features[14].conv[0]
        self.project, self.rest = features[14].conv[1:], features[15:]
        self.extras = nn.ModuleList(_smaller(i, o) for i, o in ((1280, 512), (512, 256), (256, 256), (256, 128)))
        widths = (576, 1280, 512, 256, 256, 128)
        self.boxes = nn.ModuleList(_separable(width, 4 * shapes) for width in widths)
        self.scores = nn.ModuleList(_separable(width, classes * shapes) for width in widths)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        wide = self.expand(self.stem(image))
        maps = [wide, self.rest(self.project(wide))]
        for layer in self.extras:
            maps.append(layer(maps[-1]))

        def rows(layers: nn.ModuleList, width: int) -> torch.Tensor:
            parts = [
                layer(values).permute(0, 2, 3, 1).reshape(values.shape[0], -1, width)
                for layer, values in zip(layers, maps, strict=True)
            ]
            return torch.cat(parts, 1)

        return {"boxes": rows(self.boxes, 4), "logits": rows(self.scores, self.classes)}


class LrAspp(nn.Module):
    """LR-ASPP (Howard et al., "Searching for MobileNetV3", ICCV 2019) on MobileNetV2, output stride 16."""

    def __init__(self, features: nn.Sequential, classes: int = 2, inner: int = 128) -> None:
        super().__init__()
        self.low, self.high = features[:7], features[7:]
        _dilate(self.high)
        self.cbr, self.relu = _conv(1280, inner, clips=False), nn.ReLU()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1280, inner, 1, bias=False), nn.Sigmoid())
        self.low_classifier, self.high_classifier = nn.Conv2d(32, classes, 1), nn.Conv2d(inner, classes, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        low = self.low(image)
        high = self.high(low)
        gated = self.relu(self.cbr(high)) * self.gate(high)
        up = functional.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return {"logits": (self.low_classifier(low) + self.high_classifier(up)).permute(0, 2, 3, 1)}


def _dilate(stages: nn.Sequential) -> None:
    """The last stride of MobileNetV2's second half becomes a dilation of what follows."""
    convolutions = [module for module in stages.modules() if isinstance(module, nn.Conv2d)]
    last = max(place for place, module in enumerate(convolutions) if module.stride == (2, 2))
    convolutions[last].stride = (1, 1)
    for module in convolutions[last + 1 :]:
        if module.kernel_size == (3, 3):
            module.dilation, module.padding = (2, 2), (2, 2)


class UNet(nn.Module):
    """A U-Net whose encoder is MobileNetV2: skips at strides 2, 4, 8, 16; logits at half the image's size."""

    def __init__(self, features: nn.Sequential, classes: int = 2, widths: tuple[int, ...] = (96, 48, 32, 24)) -> None:
        super().__init__()
        self.stages = nn.ModuleList([features[:2], features[2:4], features[4:7], features[7:14], features[14:18]])
        inputs = [deep + skip for deep, skip in zip((320, *widths), (96, 32, 24, 16), strict=False)]
        self.up = nn.ModuleList(
            nn.Sequential(_conv(i, i, 3, groups=i), _conv(i, o)) for i, o in zip(inputs, widths, strict=True)
        )
        self.classifier = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        values = maps[-1]
        for layer, skip in zip(self.up, reversed(maps[1:-1]), strict=True):
            up = functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)
            values = layer(torch.cat([up, skip], 1))
        return {"logits": self.classifier(values).permute(0, 2, 3, 1)}


class _Segmenter(nn.Module):
    """torchvision's, without its last upsampling."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = whole.backbone, whole.classifier

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.backbone(image)
        return {"logits": self.classifier(maps.get("out", maps)).permute(0, 2, 3, 1)}


class _Detector(nn.Module):
    """torchvision's SSDLite, without its postprocessing."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.head(list(self.backbone(image).values()))
        return {"boxes": outputs["bbox_regression"], "logits": outputs["cls_logits"]}


def _torchvision_segmenter(name: str) -> nn.Module:
    return _Segmenter(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES))


def _torchvision_detector() -> nn.Module:
    make = detection.ssdlite320_mobilenet_v3_large
    return _Detector(make(weights=None, weights_backbone=None, num_classes=CLASSES))


@dataclass(frozen=True)
class Network:
    """A network, made of MobileNetV2's features or of its own; its outputs, the side of its input, where photos are."""

    make: Callable[[nn.Sequential], nn.Module]
    outputs: tuple[str, ...]
    size: int
    photos: str


_BOTH, _MAP = ("boxes", "logits"), ("logits",)
NETWORKS = {
    "ssdlite": Network(SsdLite, _BOTH, 320, "bccd/train"),
    "lraspp": Network(LrAspp, _MAP, 256, "cats/train/images"),
    "unet": Network(UNet, _MAP, 256, "cats/train/images"),
    "ssdlite_mobilenet_v3": Network(lambda _: _torchvision_detector(), _BOTH, 320, "bccd/train"),
    "lraspp_mobilenet_v3": Network(
        lambda _: _torchvision_segmenter("lraspp_mobilenet_v3_large"), _MAP, 256, "cats/train/images"
    ),
    "deeplabv3_mobilenet_v3": Network(
        lambda _: _torchvision_segmenter("deeplabv3_mobilenet_v3_large"), _MAP, 256, "cats/train/images"
    ),
}


def with_weights(name: str, data: Path, photos: Sequence[npt.NDArray[np.uint8]], trained: Path | None) -> nn.Module:
    """The network `name` in evaluation mode, with the weights of the file `trained`, or what there is without one.

    `photos` (H, W, 3) uint8 are those that batch norms see then.
    """
    torch.manual_seed(0)
    backbone = mobilenet_v2()
    backbone.load_state_dict(load_file(data / WEIGHTS))
    network = NETWORKS[name].make(backbone.features)
    if trained is not None:
        network.load_state_dict(torch.load(trained, weights_only=True))
        return network.eval()
    return _warmed(network, torch.from_numpy(np.stack(photos)))


def _warmed(network: nn.Module, photos: torch.Tensor) -> nn.Module:
    """Batch norms that know nothing yet take the statistics of `photos`: a random head would give next to zero."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.running_mean.abs().sum() > 0:
            module.momentum = None
            module.train()
    with torch.inference_mode():
        network(((photos.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2))
    return network.eval()
