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
from torchvision.models import mobilenet_v2

from edgetl.models.backbones import build
from edgetl.models.heads import head_named
from edgetl.models.heads.published_boxes import published_settings

__all__ = ["NETWORKS", "Network", "with_weights"]

WEIGHTS = "weights/mobilenet_v2_imagenet1k.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _headed(head: str, labels: int, size: int) -> Callable[[nn.Module], nn.Module]:
    """A head of edgetl behind a backbone: what a training makes of it."""
    crop = (size, size)
    settings = published_settings(crop) if head == "ssdlite" else {}
    return lambda trunk: head_named(head).attach(trunk.eval(), labels, settings, crop=crop, channels=3)


@dataclass(frozen=True)
class Network:
    """A network, made of MobileNetV2 or of its own; its outputs, the side of its input, where photos are."""

    make: Callable[[nn.Module], nn.Module]
    outputs: tuple[str, ...]
    size: int
    photos: str


def _published(name: str, labels: int, size: int) -> Callable[[nn.Module], nn.Module]:
    """A network of torchvision that comes with its head."""
    return lambda _: build(name, labels, image_size=size)


_BOTH, _MAP = ("boxes", "logits"), ("logits",)
_CELLS, _CATS = (320, "bccd/train"), (256, "cats/train/images")
NETWORKS = {
    "ssdlite": Network(_headed("ssdlite", 3, 320), _BOTH, *_CELLS),
    "lraspp": Network(_headed("lraspp", 2, 256), _MAP, *_CATS),
    "unet": Network(_headed("unet", 2, 256), _MAP, *_CATS),
    "ssdlite_mobilenet_v3": Network(_published("ssdlite320_mobilenet_v3_large", 3, 320), _BOTH, *_CELLS),
    "lraspp_mobilenet_v3": Network(_published("lraspp_mobilenet_v3_large", 2, 256), _MAP, *_CATS),
    "deeplabv3_mobilenet_v3": Network(_published("deeplabv3_mobilenet_v3_large", 2, 256), _MAP, *_CATS),
}


def with_weights(name: str, data: Path, photos: Sequence[npt.NDArray[np.uint8]], trained: Path | None) -> nn.Module:
    """The network `name` in evaluation mode, with the weights of the file `trained`, or what there is without one.

    `photos` (H, W, 3) uint8 are those that batch norms see then.
    """
    torch.manual_seed(0)
    backbone = mobilenet_v2()
    backbone.load_state_dict(load_file(data / WEIGHTS))
    network = NETWORKS[name].make(backbone)
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
