"""Does an image get the same answer alone and in a run with others? For files that take several images in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.verify.measure.parity import FeatureSums
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.comparison import decided_otherwise
from edgetl_runtime.session import Session

__all__ = ["BatchSums", "size_of"]

_TOGETHER = 7
"""Images in one run of a file that takes any number. No kernel works on sevens: what is left over counts too."""

_LEAST_DB = 20.0
"""SQNR of features: sums in another order give 100 dB and more, integers that are rounded otherwise 25."""


def size_of(session: Session) -> int:
    """How many images `session` is given at once to be held against one alone; 1 where it takes no more."""
    batch = session.inputs[0].shape[0]
    return _TOGETHER if batch == FREE else batch


@dataclass
class BatchSums:
    """One variant's answers for images alone beside those for the same images together, added up as they come.

    ``size`` is the most images in a run, ``n`` how many were compared, ``others`` the places of those that are decided
    otherwise. `outputs` are the names of what decides, all else are features; ``alike(alone, together)`` says for each
    image how far (0..1) the decision is the same.
    """

    size: int
    outputs: Sequence[str]
    alike: Callable[[Mapping[str, npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]], npt.NDArray[np.float64]]
    n: int = 0
    others: list[int] = field(default_factory=list)
    features: dict[str, FeatureSums] = field(default_factory=dict)

    def add(self, alone: Mapping[str, npt.NDArray[Any]], together: Mapping[str, npt.NDArray[Any]]) -> None:
        """What it gave by name, a row for each image."""
        one, other = ({name: values[name] for name in self.outputs} for values in (alone, together))
        if [*one] == ["logits"]:
            apart = decided_otherwise(one["logits"], other["logits"])
        else:
            apart = self.alike(one, other) < 1.0
        self.others += (self.n + np.flatnonzero(apart)).tolist()
        self.n += len(apart)
        for name in alone.keys() - set(self.outputs):
            self.features.setdefault(name, FeatureSums(name)).add(alone[name], together[name])

    @property
    def far(self) -> dict[str, float]:
        """The features that are others in a run with others, with their SQNR in dB."""
        found = {name: sums.parity().sqnr_db for name, sums in self.features.items()}
        return {name: near for name, near in sorted(found.items()) if near < _LEAST_DB}
