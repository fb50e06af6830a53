"""Mean and standard deviation of pixels, for images of any number of channels."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Normalize

__all__ = ["for_channels", "normalize_of"]


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Published values of three channels, for so many: of one their average, of more in turns."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(float(values[index % len(values)]) for index in range(channels))


def normalize_of(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalize | None:
    """What a user says of ``(pixel / 255 - mean) / std``, a number for each channel or one for all; None for nothing.

    Raises `UsageError` when only one of them is given, and for numbers that make no sense.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        left = "mean" if mean is None else "std"
        raise UsageError(
            f"pixels are normalised with a mean and a standard deviation, and there is no {left}",
            fix=f"--{left}, in units of 0..1: one number, or one for each channel",
        )
    if not mean or not std or min(std) <= 0 or len({len(mean), len(std)} - {1}) > 1:
        raise UsageError(
            f"mean {', '.join(map(str, mean))} and std {', '.join(map(str, std))} make no sense",
            fix="as many of one as of the other, std above 0, in units of 0..1",
        )
    n = max(len(mean), len(std))
    return Normalize(*(tuple(map(float, values)) * (n // len(values)) for values in (mean, std)))
