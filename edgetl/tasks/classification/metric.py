"""The logits of one model for all images, and what they are worth: in memory, or on disk where there are many."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.tasks.classification.accuracy import score
from edgetl.tasks.classification.results import Accuracy, quality_of_accuracy
from edgetl.tasks.task import Outputs, Quality

__all__ = ["LogitsMetric"]

_MOST_IN_MEMORY = 2**25
"""Bytes of the logits of one model; more of them lie in a temporary file that is mapped into memory."""


class LogitsMetric:
    """Top-1 and all that goes with it, of one model: a `edgetl.tasks.task.Metric`."""

    def __init__(self, output: str, labels: Sequence[str], n: int) -> None:
        self._output, self._labels = output, labels
        self._rows = _room((n, len(labels)))
        self._truth = np.empty(n, np.int64)
        self._done = 0

    def update(self, samples: Sequence[Sample], outputs: Outputs) -> None:
        """The rows of the next images."""
        rows = slice(self._done, self._done + len(samples))
        self._rows[rows] = outputs[self._output]
        self._truth[rows] = [sample.label for sample in samples]
        self._done = rows.stop

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """(n, classes)."""
        return self._rows[: self._done]

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """(n,): the index of the right label."""
        return self._truth[: self._done]

    def accuracy(self, original: LogitsMetric | None = None) -> Accuracy:
        """Beside the `original` on the same images, where there is one."""
        before = None if original is None else original.logits
        return score(self.logits, self.truth, labels=self._labels, original=before)

    def compute(self, original: LogitsMetric | None = None) -> Quality:
        """What every task has of `accuracy`."""
        return quality_of_accuracy(self.accuracy(original))


def _room(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """An array for logits: in memory, or in a file that has no name and goes with the array."""
    if 4 * shape[0] * shape[1] <= _MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)
