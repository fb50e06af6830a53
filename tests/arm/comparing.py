"""Two machines on the same photos: do they decide the same, and how far apart are their logits and pixels."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "Outputs", "compare", "read_outputs"]


@dataclass(frozen=True)
class Outputs:
    """What `probe.py` wrote: ``tensors`` (n, H, W, 3) uint8, ``logits`` (n, classes) float32, ``about`` the machine."""

    tensors: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    about: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Of ``n`` photos: ``same_decisions`` have the same first label on both machines, ``same_bits`` the same logits to
    the last bit.

    ``max_abs`` is the largest difference of a logit (infinite when one is not finite), ``sigma`` the standard deviation
    of the reference's logits, to know whether that is much; ``pixels`` the largest difference in grey levels. ``flips``
    has the positions of the photos that are decided otherwise.
    """

    n: int
    same_decisions: int
    same_bits: int
    max_abs: float
    sigma: float
    pixels: int
    flips: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether all photos are decided the same, and there were some."""
        return 0 < self.n == self.same_decisions


def read_outputs(path: Path) -> Outputs:
    """The file that `probe.py` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Outputs(arrays["tensors"], arrays["logits"], json.loads(str(arrays["about"])))


def compare(reference: Outputs, other: Outputs) -> Comparison:
    """`other` held against `reference`. Logits that are not finite decide nothing: they never count as the same.

    Raises `ValueError` when the two have other numbers of photos, pixels or labels.
    """
    for name in ("tensors", "logits"):
        shapes = getattr(reference, name).shape, getattr(other, name).shape
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} of other shapes: {list(shapes[0])} and {list(shapes[1])}")
    finite = np.isfinite(reference.logits).all(axis=1) & np.isfinite(other.logits).all(axis=1)
    same = finite & (reference.logits.argmax(axis=1) == other.logits.argmax(axis=1))
    # As integers: 0.0 and -0.0 are equal numbers, but not the same bits.
    bits = (_bits(reference.logits) == _bits(other.logits)).all(axis=1)
    signal = reference.logits[np.isfinite(reference.logits)].astype(np.float64)
    apart = np.abs(reference.logits.astype(np.float64) - other.logits) if finite.all() else np.array(math.inf)
    grey = np.abs(reference.tensors.astype(np.int16) - other.tensors)
    return Comparison(
        n=len(same),
        same_decisions=int(same.sum()),
        same_bits=int(bits.sum()),
        max_abs=float(apart.max(initial=0.0)),
        sigma=float(signal.std()) if signal.size else 0.0,
        pixels=int(grey.max(initial=0)),
        flips=tuple(np.flatnonzero(~same).tolist()),
    )


def _bits(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(logits, dtype=np.float32).view(np.uint32)
