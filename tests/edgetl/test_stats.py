from __future__ import annotations

import math

import numpy as np
import pytest

from edgetl.stats import (
    ALPHA,
    bootstrap_delta,
    fisher_worse,
    holm,
    images_to_decide,
    is_significant,
    mcnemar,
    mcnemar_worse,
    median_spread,
    percentile_ratio_spread,
    percentile_spread,
    ratio_spread,
    share_below,
)


@pytest.mark.parametrize(
    ("broken", "repaired", "one_sided", "two_sided"),
    [
        (0, 0, 1.0, 1.0),
        (3, 0, 1 / 8, 1 / 4),
        (12, 0, 2**-12, 2**-11),
        (0, 3, 1.0, 1 / 4),
        # Binomial tables: P(X >= 8 | 10, 1/2) = 56/1024, P(X >= 9 | 12, 1/2) = 299/4096.
        (8, 2, 56 / 1024, 112 / 1024),
        (9, 3, 299 / 4096, 598 / 4096),
        (5, 5, 638 / 1024, 1.0),
    ],
)
def test_mcnemar_against_the_binomial_distribution(
    broken: int, repaired: int, one_sided: float, two_sided: float
) -> None:
    assert mcnemar_worse(broken, repaired) == pytest.approx(one_sided)
    assert mcnemar(broken, repaired) == pytest.approx(two_sided)


def test_three_of_367_are_no_regression_and_twelve_are() -> None:
    assert not is_significant(mcnemar_worse(3, 0))
    assert is_significant(mcnemar_worse(12, 0))


def test_mcnemar_is_right_about_as_often_as_it_says() -> None:
    """Of equal models, no more than one in twenty is called worse."""
    rng = np.random.default_rng(2)
    called = sum(is_significant(mcnemar_worse(int(broken), 20 - int(broken))) for broken in rng.binomial(20, 0.5, 2000))
    assert called <= ALPHA * 2000


@pytest.mark.parametrize("n", [1, 7, 367, 20_000])
def test_shares_of_any_number_of_images(n: int) -> None:
    assert share_below(n, n, 0.95) == 1.0
    assert share_below(0, n, 0.95) == pytest.approx(0.05**n, rel=1e-6, abs=1e-300)
    assert share_below(n - 1, n, 1.0) == 0.0
    assert share_below(0, n, 0.0) == 1.0


def test_a_share_against_the_sum_of_the_binomial() -> None:
    direct = math.fsum(math.comb(30, k) * 0.1**k * 0.9 ** (30 - k) for k in range(6, 31))
    assert share_below(24, 30, 0.9) == pytest.approx(direct)
    assert share_below(9_900, 10_000, 0.99) == pytest.approx(0.514, abs=0.005)


def test_fisher_against_the_lady_tasting_tea() -> None:
    """R. A. Fisher, The Design of Experiments (1935): of 8 cups, 3 of 4 right has 17 of 70 ways."""
    assert fisher_worse((3, 4), (1, 4)) == pytest.approx(17 / 70)
    assert fisher_worse((4, 4), (0, 4)) == pytest.approx(1 / 70)
    assert fisher_worse((5, 10), (10, 10)) == pytest.approx(1.0)


def test_holm() -> None:
    """By hand: the smallest of four counts four times, the next three times, never less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_interval_of_a_paired_difference() -> None:
    low, high = bootstrap_delta(12, 0, 367)
    assert low < -12 / 367 < high < 0
    assert bootstrap_delta(3, 0, 367)[1] == 0.0
    assert bootstrap_delta(0, 0, 50) == (0.0, 0.0)
    assert bootstrap_delta(5, 9, 100) == bootstrap_delta(5, 9, 100)
    # The normal approximation, where it is good.
    low, high = bootstrap_delta(400, 300, 10_000)
    sd = math.sqrt(0.07 - 0.01**2) / 100
    assert (low, high) == pytest.approx((-0.01 - 1.96 * sd, -0.01 + 1.96 * sd), abs=3e-4)


def test_how_many_images_would_decide() -> None:
    enough = images_to_decide((3, 0), 367, test="mcnemar")
    assert enough is not None
    assert not is_significant(mcnemar_worse(round(3 * (enough / 1.1) / 367), 0))
    assert is_significant(mcnemar_worse(round(3 * enough / 367), 0))
    assert images_to_decide((364,), 367, test="share", limit=0.995) == pytest.approx(2245)
    assert images_to_decide((5, 5), 100, test="mcnemar") is None


def test_no_noise_no_interval() -> None:
    assert median_spread([2.0] * 5) == (2.0, (2.0, 2.0))
    assert percentile_spread([[1.0, 1.0], [1.0]], 95) == (1.0, (1.0, 1.0))
    assert ratio_spread([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, (2.0, 2.0))
    assert percentile_ratio_spread([[2.0] * 3] * 4, [[1.0] * 3] * 4, 95) == (2.0, (2.0, 2.0))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth = far = 0
    for _ in range(200):
        low, high = median_spread(rng.normal(10.0, 1.0, size=12).tolist())[1]
        truth += low <= 10.0 <= high
        far += low <= 10.8 <= high
    # 92 to 95 % of them hold it with 12 values; a number more than two of its standard errors away seldom.
    assert 180 <= truth < 198
    assert far < 100


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
