"""Bars that lie or stand: a data set that a small network learns in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from edgetl.data.dataset import Dataset, Sample
from edgetl_runtime.manifest import Label


def bars(n_train: int = 48, n_val: int = 24) -> Dataset:
    """Two labels, 36 x 36 pixels."""
    rng = np.random.default_rng(0)

    def sample(i: int) -> Sample:
        image = rng.integers(0, 60, (36, 36, 3))
        at, label = int(rng.integers(4, 28)), i % 2
        image[(slice(at, at + 5), slice(None)) if label else (slice(None), slice(at, at + 5))] += 160
        return Sample(image.astype(np.uint8), label, f"bar-{i}")

    samples = tuple(sample(i) for i in range(n_train + n_val))
    labels = (Label("standing", "standing"), Label("lying", "lying"))
    return Dataset("bars", labels, samples[:n_train], samples[n_train:])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return bars()
