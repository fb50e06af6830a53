"""What is trained, as options; and the check that every class of options makes of its values."""

from __future__ import annotations

from dataclasses import dataclass

from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import DECODINGS

__all__ = ["ModelOptions", "require"]

_LARGEST_IMAGE = 2**14
_MOST_CHANNELS = 256
"""What a manifest may say at most."""


@dataclass(frozen=True)
class ModelOptions:
    """What is trained. ``weights`` is ``imagenet``, ``none`` or a file; ``image_size`` is in pixels.

    ``channels`` of an image: 1 is grey, 3 is RGB; ``None`` means those that the weights are for. ``decode`` is how JPEG
    files are decoded, here and on the device: ``exact``, or ``scaled``: large ones at a fraction of their size.
    Raises `UsageError` for values that make no sense.
    """

    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    image_size: int | None = None
    channels: int | None = None
    decode: str = "exact"

    def __post_init__(self) -> None:
        for name, most in (("image_size", _LARGEST_IMAGE), ("channels", _MOST_CHANNELS)):
            value = getattr(self, name)
            require(value is None or 1 <= value <= most, name, self, f"from 1 to {most}")
        require(self.decode in DECODINGS, "decode", self, " or ".join(DECODINGS))


def require(holds: object, name: str, options: object, allowed: str) -> None:
    """Raise `UsageError` for the option `name` of `options` unless `holds`."""
    if not holds:
        raise UsageError(f"{name} = {getattr(options, name)!r} makes no sense", fix=allowed)
