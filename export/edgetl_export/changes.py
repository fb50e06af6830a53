"""How many decisions change, in words: of a classifier photos do, of boxes and masks shares of what photos show."""

from __future__ import annotations

__all__ = ["drop_in_words", "is_of_photos"]

_WHOLE = 1e-6
"""How far from a whole number of photos sums of shares may be."""


def is_of_photos(drop: float, n: int) -> bool:
    """Whether `drop`, a share of the decisions on `n` photos, is a whole number of photos."""
    return abs(drop * n - round(drop * n)) < _WHOLE


def drop_in_words(drop: float, n: int) -> str:
    """``3 of 50 change``, or ``1.77 % of 50 photos' decisions change`` where decisions are parts of photos.

    Args:
        drop: The share of decisions that change, 0..1: the mean of the photos' shares.
        n: Photos.
    """
    if is_of_photos(drop, n):
        return f"{round(drop * n)} of {n} change"
    return f"{100 * drop:.3g} % of {n} photos' decisions change"
