from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgetl.data.dataset import Dataset, Sample
from edgetl.recipe import ModelOptions
from edgetl.training.lr_finder import LrRange, lr_range
from edgetl.training.options import TrainOptions
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.manifest import Label

START = ModelOptions("resnet18", "none", 32)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Dark and bright noise."""
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample((rng.integers(0, 120, (32, 32, 3)) + 100 * (i % 2)).astype(np.uint8), i % 2, f"{i}") for i in range(40)
    )
    return Dataset("noise", (Label("dark", "dark"), Label("bright", "bright")), samples, samples[:8])


@pytest.mark.slow
def test_a_rate_is_found_between_too_slow_and_too_fast(data: Dataset) -> None:
    options = TrainOptions("full", batch_size=8, augment="none", precision="fp32", dropout=0.0)
    found = lr_range(data, START, options, lowest=1e-6, highest=10.0, steps=40)
    assert 1e-5 < found.suggestion < 1e-1
    assert len(found.rates) < 40  # the loss grew before the highest rate
    assert found.rates == tuple(sorted(found.rates))
    assert min(found.losses) < 0.7 * found.losses[0]
    assert lr_range(data, START, options, lowest=1e-6, highest=10.0, steps=40) == found


def test_a_head_on_features_has_no_rate(data: Dataset) -> None:
    with pytest.raises(UsageError, match="no learning rate"):
        lr_range(data, START, TrainOptions("head"))


def test_it_is_told_kept_and_drawn(tmp_path: Path) -> None:
    found = LrRange(tuple(10.0**-n for n in range(9, 0, -1)), (5.0, 5.0, 4.9, 3.0, 2.0, 1.5, 1.4, 3.0, 9.0), 1e-5)
    assert "--lr 1.0e-05 is suggested" in str(found)
    found.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["suggestion"] == 1e-5
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    found.plot(tmp_path / "r.svg")
    assert (tmp_path / "r.svg").read_text().count("<path") > 10
    with pytest.raises(OutputError):
        found.plot(tmp_path / "no" / "r.png")
    with pytest.raises(OutputError):
        found.save(tmp_path / "no" / "r.json")
