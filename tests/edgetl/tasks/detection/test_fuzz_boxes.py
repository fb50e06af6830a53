"""A part of tests/fuzz/fuzz_boxes.py."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "fuzz"))

from fuzz_boxes import try_one
from fuzz_masks import try_all


@pytest.mark.slow
def test_boxes_and_manifests_of_all_kinds() -> None:
    outcomes = Counter(outcome for _, outcome in try_all(120, 7, trying=try_one))
    assert set(outcomes) == {"read", "refused", "decoded"}
    assert min(outcomes.values()) >= 5
