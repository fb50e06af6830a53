from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from comparing import Comparison, Outputs, compare, read_outputs


def outputs(change: dict[tuple[int, int], float] | None = None, *, n: int = 5) -> Outputs:
    """Photo i is decided as label i; `change` sets single logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.1, (n, 6)).astype(np.float32)
    logits[np.arange(n), np.arange(n)] += 3
    for position, value in (change or {}).items():
        logits[position] = value
    return Outputs(rng.integers(0, 256, (n, 4, 4, 3), np.uint8), logits, {})


def test_the_same_outputs_are_the_same_to_the_last_bit() -> None:
    found = compare(outputs(), outputs())
    sigma = float(outputs().logits.astype(np.float64).std())
    assert found == Comparison(n=5, same_decisions=5, same_bits=5, max_abs=0.0, sigma=sigma, pixels=0, flips=())
    assert found.passed


def test_a_planted_decision_is_found() -> None:
    found = compare(outputs(), outputs({(3, 0): 9.0}))
    assert (found.same_decisions, found.same_bits, found.flips) == (4, 4, (3,))
    assert found.max_abs == pytest.approx(9.0, abs=0.5)
    assert not found.passed


def test_a_planted_last_bit_is_found_and_decides_nothing() -> None:
    reference = outputs()
    nudged = float(np.nextafter(reference.logits[2, 2], np.float32(100)))
    found = compare(reference, outputs({(2, 2): nudged}))
    assert (found.same_decisions, found.same_bits) == (5, 4)
    assert 0 < found.max_abs < 1e-6
    assert found.passed


def test_zeros_of_other_signs_are_other_bits() -> None:
    assert compare(outputs({(0, 5): 0.0}), outputs({(0, 5): -0.0})).same_bits == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_never_count_as_the_same(value: float) -> None:
    broken = outputs({(1, 1): value})
    for found in (compare(outputs(), broken), compare(broken, outputs()), compare(broken, broken)):
        assert (found.same_decisions, found.flips, found.max_abs) == (4, (1,), math.inf)
        assert not found.passed


@pytest.mark.parametrize(("before", "after"), [(0, 255), (255, 0), (7, 8)])
def test_a_planted_grey_level_is_found(before: int, after: int) -> None:
    reference, other = outputs(), outputs()
    reference.tensors[0, 1, 2, 0], other.tensors[0, 1, 2, 0] = before, after
    assert compare(reference, other).pixels == abs(after - before)


def test_other_photos_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="tensors of other shapes"):
        compare(outputs(), outputs(n=4))


def test_no_photos_prove_nothing() -> None:
    assert not compare(outputs(n=0), outputs(n=0)).passed


def test_what_the_probe_writes_is_read_again(tmp_path: Path) -> None:
    written = outputs()
    about = np.array(json.dumps({"engine": "x"}))
    np.savez(tmp_path / "o.npz", tensors=written.tensors, logits=written.logits, about=about)
    read = read_outputs(tmp_path / "o.npz")
    assert compare(written, read).same_bits == 5
    assert read.about == {"engine": "x"}
