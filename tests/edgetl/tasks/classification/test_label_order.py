"""Labels in another order than the logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgetl.tasks.classification.label_order import shuffled_labels
from edgetl_runtime.manifest import Label

LABELS = tuple(Label(name, name.title()) for name in ("ant", "bee", "cat", "dog"))


def shuffled(n: int, order: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits of a good model and labels in another order: label i is called order[i]."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, n)
    logits = rng.normal(0, 1, (n, 4)).astype(np.float32)
    logits[np.arange(n), kinds] += 4
    return logits, np.array(order, np.int64)[kinds]


def test_a_confusion_that_is_a_permutation_means_shuffled_labels() -> None:
    logits, truth = shuffled(200, [1, 2, 0, 3])
    faults = shuffled_labels(logits, truth, LABELS)
    assert [fault.what for fault in faults] == ["labels"]
    assert "3 of 4 labels" in faults[0].evidence
    assert shuffled_labels(*shuffled(200, [0, 1, 2, 3]), LABELS) == ()
    assert shuffled_labels(*shuffled(12, [1, 2, 0, 3]), LABELS) == (), "too few photos"
    logits[:] = [0, 0, 1, 0]
    assert shuffled_labels(logits, truth, LABELS) == (), "a model that says one thing is only bad"
