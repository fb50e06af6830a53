"""What is trained, as options; and the check that every class of options makes of its values."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl.models.image_size import ImageSize, height_and_width, image_size_of, size_text
from edgetl_runtime.errors import UsageError

__all__ = ["ModelOptions", "require"]

_LARGEST_IMAGE = 2**14
_MOST_CHANNELS = 256
"""What a manifest may say at most."""


@dataclass(frozen=True)
class ModelOptions:
    """What is trained. ``weights`` is ``imagenet``, ``none`` or a file.

    ``image_size`` is in pixels: the side of a square, or (height, width), which a file has as ``"192x320"``.
    ``channels`` of an image: 1 is grey, 3 is RGB; ``None`` means those that the weights are for.
    Raises `UsageError` for values that make no sense.
    """

    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    image_size: ImageSize | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            size = image_size_of(self.image_size)
            if not all(1 <= side <= _LARGEST_IMAGE for side in height_and_width(size)):
                raise UsageError(f"image_size = {size_text(size)} makes no sense", fix=f"from 1 to {_LARGEST_IMAGE}")
            object.__setattr__(self, "image_size", size)  # a list or a text is what it says
        holds = self.channels is None or 1 <= self.channels <= _MOST_CHANNELS
        require(holds, "channels", self, f"from 1 to {_MOST_CHANNELS}")


def require(holds: object, name: str, options: object, allowed: str) -> None:
    """Raise `UsageError` for the option `name` of `options` unless `holds`."""
    if not holds:
        raise UsageError(f"{name} = {getattr(options, name)!r} makes no sense", fix=allowed)
