"""A part of tests/fuzz/fuzz_data.py, and that its oracle finds what is wrong."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

from fuzz_data import READABLE, check_dataset, try_all

from edgetl.data.dataset import load_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")


@pytest.mark.slow
def test_folders_and_tables_of_all_kinds() -> None:
    found = list(try_all(range(150), 7))
    assert [problem for _, _, problem in found if problem is not None] == []
    assert min(Counter(kind for _, kind, _ in found)[kind] for kind in ("folder", "table")) >= 10


def test_the_oracle_sees_what_is_lost_or_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / name)
    data = load_dataset(tmp_path, READABLE)
    assert check_dataset(data, tmp_path) is None
    wrong = {
        "in no split": dataclasses.replace(data, train=data.train[:1]),
        "are said": dataclasses.replace(data, left_out={}),
        "is in val": dataclasses.replace(data, val=data.train),
        "has the label": dataclasses.replace(data, labels=data.labels[::-1]),
    }
    for says, damaged in wrong.items():
        assert says in str(check_dataset(damaged, tmp_path))
