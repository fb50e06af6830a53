"""A part of tests/fuzz/fuzz_masks.py."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "fuzz"))

from fuzz_masks import try_all


@pytest.mark.slow
def test_masks_and_manifests_of_all_kinds() -> None:
    outcomes = Counter(outcome for _, outcome in try_all(120, 7))
    assert set(outcomes) == {"read", "refused", "decoded"}
    assert min(outcomes.values()) >= 5
