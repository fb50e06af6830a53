from __future__ import annotations

import numpy as np
import pytest

from edgetl.spread import median_spread, percentile_ratio_spread, percentile_spread, ratio_spread


def test_no_noise_no_interval() -> None:
    assert median_spread([2.0] * 5) == (2.0, (2.0, 2.0))
    assert percentile_spread([[1.0, 1.0], [1.0]], 95) == (1.0, (1.0, 1.0))
    assert ratio_spread([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, (2.0, 2.0))
    assert percentile_ratio_spread([[2.0] * 3] * 4, [[1.0] * 3] * 4, 95) == (2.0, (2.0, 2.0))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        low, high = median_spread(rng.normal(10.0, 1.0, size=12).tolist())[1]
        hits += low <= 10.0 <= high
    assert 180 <= hits <= 200


def test_one_round_that_was_disturbed_does_not_move_the_median() -> None:
    value, (low, high) = median_spread([1.0] * 11 + [50.0])
    assert (value, low) == (1.0, 1.0)
    assert high == 1.0


def test_percentile_over_all_runs() -> None:
    rounds = [list(range(start, start + 10)) for start in range(0, 100, 10)]
    value, (low, high) = percentile_spread(rounds, 95)
    assert value == pytest.approx(94.05)
    assert low < value <= high <= 99


def test_the_interval_of_a_percentile_is_that_of_drawing_rounds_one_by_one() -> None:
    rng = np.random.default_rng(1)
    rounds = [(rng.normal(10, 1, size=rng.integers(3, 9)) + drift).tolist() for drift in range(8)]
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(0, 8, size=8)
        drawn.append(np.percentile(np.concatenate([rounds[i] for i in chosen]), 95, method="inverted_cdf"))
    low, high = percentile_spread(rounds, 95)[1]
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=0.4)
