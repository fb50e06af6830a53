"""What is trained, as options: the ``[model]`` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgetl.models.image_size import ImageSize, height_and_width, image_size_of, size_text
from edgetl.models.normalization import normalize_of
from edgetl.models.sources import allow_code
from edgetl.option import OneOf, Section, option, within
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import DECODINGS, MODES, Normalize

__all__ = ["DEVICES", "ModelOptions", "device_option"]

DEVICES = ("auto", "cpu", "cuda")
"""Those of `edgetl_export.device`, which loads torch."""

_LARGEST_IMAGE = 2**14
_MOST_CHANNELS = 256
"""What a manifest may say at most."""


def device_option() -> str:
    """The option of every section that trains something: one of `DEVICES`."""
    return option(
        "auto",
        "where networks are trained",
        usual="auto, a GPU when there is one",
        check=OneOf(DEVICES, fix="auto, cpu or cuda"),
    )


def _check_image_size(name: str, value: Any) -> None:
    size = image_size_of(value)
    if not all(1 <= side <= _LARGEST_IMAGE for side in height_and_width(size)):
        raise UsageError(f"{name} = {size_text(size)} makes no sense", fix=f"from 1 to {_LARGEST_IMAGE}")


@dataclass(frozen=True)
class ModelOptions(Section):
    """What is trained. Raises `UsageError` for values that make no sense."""

    backbone: str = option(
        "mobilenet_v2",
        "network to start from; `edgetl backbones` lists all; also timm:NAME, module.py:function",
        metavar="NAME",
        shown=True,
    )
    weights: str = option("imagenet", "what to start from", metavar="imagenet|none|FILE")
    image_size: ImageSize | None = option(
        None,
        "pixels of a square, or height x width",
        usual="the backbone's own, often 224",
        metavar="N|HxW",
        check=_check_image_size,
    )
    channels: int | None = option(
        None,
        "of an image: 1 is grey, 3 is RGB",
        usual="those that the weights are for, often 3",
        check=within(1, _MOST_CHANNELS),
    )
    decode: str = option(
        "exact",
        "how JPEG files are decoded, here and on devices; scaled: large ones at a fraction of their size",
        metavar="exact|scaled",
        check=OneOf(DECODINGS, fix=" or ".join(DECODINGS)),
    )
    resize: str | None = option(
        None,
        "how a photo becomes as large as the tensor",
        usual="the task's own",
        check=OneOf(MODES, fix=", ".join(MODES)),
    )
    head: str | None = option(None, "what stands behind the backbone", usual="the task's own", metavar="NAME")
    mean: tuple[float, ...] | None = option(
        None, "of pixels in 0..1, that a network of your own takes off", metavar="X,..."
    )
    std: tuple[float, ...] | None = option(None, "of pixels in 0..1, that it divides them by then", metavar="X,...")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None:  # a list or a text is what it says
            object.__setattr__(self, "image_size", image_size_of(self.image_size))
        allow_code(self.backbone)
        _ = self.normalize

    @property
    def normalize(self) -> Normalize | None:
        """How pixels are normalised, where that was said."""
        return normalize_of(self.mean, self.std)
