from __future__ import annotations

import numpy as np
import pytest

from edgetl.verify.accuracy import ClassAccuracy, score, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
        # table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_interval_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_top1_top5_and_classes() -> None:
    logits = np.tile(np.arange(7, 0, -1, dtype=np.float32), (4, 1))  # the order of labels is 0, 1, ... 6
    truth = np.array([0, 4, 5, 0])
    original = logits.copy()
    original[1, 4] = 9
    result = score(logits, truth, labels=list("abcdefg"), original=original)
    assert (result.n, result.top1, result.top5, result.delta) == (4, 0.5, 0.75, -0.25)
    assert result.per_class == {"a": ClassAccuracy(2, 1.0), "e": ClassAccuracy(1, 0.0), "f": ClassAccuracy(1, 0.0)}


def test_with_fewer_than_five_labels_top5_is_all_of_them() -> None:
    logits = np.array([[3, 2, 1], [3, 2, 1]], np.float32)
    result = score(logits, np.array([2, 1]), labels=list("abc"))
    assert (result.top1, result.top5, result.delta) == (0.0, 1.0, None)


def test_equal_logits_go_to_the_first_label_as_argmax_does() -> None:
    logits = np.zeros((2, 8), np.float32)
    result = score(logits, np.array([0, 5]), labels=list("abcdefgh"))
    assert (result.top1, result.top5) == (0.5, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_wrong(bad: float) -> None:
    logits = np.array([[bad, 0, 0], [1, 0, 0]], np.float32)
    result = score(logits, np.array([0, 0]), labels=list("abc"))
    assert (result.top1, result.top5) == (0.5, 0.5)
