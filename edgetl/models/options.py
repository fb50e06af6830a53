"""What is trained, as options: the ``[model]`` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl.option import OneOf, Section, option, within

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


@dataclass(frozen=True)
class ModelOptions(Section):
    """What is trained. Raises `UsageError` for values that make no sense."""

    backbone: str = option(
        "mobilenet_v2", "network to start from; `edgetl backbones` lists all", metavar="NAME", shown=True
    )
    weights: str = option("imagenet", "what to start from", metavar="imagenet|none|FILE")
    image_size: int | None = option(
        None, "pixels", usual="the backbone's own, often 224", check=within(1, _LARGEST_IMAGE)
    )
    channels: int | None = option(
        None,
        "of an image: 1 is grey, 3 is RGB",
        usual="those that the weights are for, often 3",
        check=within(1, _MOST_CHANNELS),
    )
