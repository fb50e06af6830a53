"""A slice of ``tests/fuzz/fuzz_weights.py``, and the proof that it notices what it is there to notice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

import children
import fuzz_weights

OUTCOMES = {"right", "error"}


@pytest.mark.slow
def test_damaged_files_end_in_an_answer_or_an_error_that_helps() -> None:
    kinds = list(fuzz_weights.KINDS)
    work = [(kinds[place % len(kinds)], place // len(kinds)) for place in range(180)]
    found = children.run(fuzz_weights.__file__, work, seed=20261130)
    assert len(found) == 180
    assert [one for one in found if one.outcome not in OUTCOMES] == []
    assert {one.outcome for one in found} == OUTCOMES


@pytest.mark.parametrize("broken", [KeyError("x"), RecursionError(), IndexError(3)])
def test_anything_else_is_found(broken: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        raise broken

    monkeypatch.setattr(fuzz_weights, "read_state", read)
    assert children.one(fuzz_weights.KINDS, "pth", 0, 0, tmp_path).outcome.startswith(type(broken).__name__)
