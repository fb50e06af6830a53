from __future__ import annotations

import numpy as np
import pytest

import edgetl.tasks.classification.accuracy as accuracy_module
from edgetl.stats import pack_shares, unpack_shares
from edgetl.tasks.classification.accuracy import score, wilson_interval, worst_class_of
from edgetl.tasks.classification.results import ClassAccuracy


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


def decisions(right: list[int], n: int) -> np.ndarray:
    """Logits for two labels of `n` images of the first one, where the images `right` are decided right."""
    logits = np.tile(np.array([0, 1], np.float32), (n, 1))
    logits[right] = [1, 0]
    return logits


def test_changes_are_paired_with_the_original() -> None:
    original, variant = decisions(list(range(90)), 100), decisions([*range(5, 90), 95, 96], 100)
    result = score(variant, np.zeros(100, np.int64), labels=["a", "b"], original=original)
    assert (result.broken, result.repaired) == (5, 2)
    assert result.delta == pytest.approx(-0.03)
    assert result.delta_ci95 is not None
    assert result.delta_ci95[0] < -0.03 < result.delta_ci95[1]
    alone = score(variant, np.zeros(100, np.int64), labels=["a", "b"])
    assert (alone.delta, alone.broken, alone.delta_ci95, alone.class_delta) == (None, None, None, None)


def test_the_worst_class_counts_only_when_its_loss_is_significant() -> None:
    truth = np.repeat(np.arange(5), 40)
    was_right = np.ones(200, bool)
    right = was_right.copy()
    assert worst_class_of(right, was_right, truth) == (None, 0.0)
    right[80:86] = False  # 6 of 40: p = 1/64, five labels to choose from
    assert worst_class_of(right, was_right, truth) == (None, 0.0)
    right[86] = False
    assert worst_class_of(right, was_right, truth) == (2, pytest.approx(-7 / 40))
    right[120:130] = False
    assert worst_class_of(right, was_right, truth) == (3, pytest.approx(-10 / 40))
    assert worst_class_of(was_right, right, truth) == (None, 0.0), "winning is no loss"


def test_the_worst_class_is_in_the_score() -> None:
    truth = np.repeat([0, 1], 20)
    original = np.where(truth[:, None] == np.arange(2), 1, 0).astype(np.float32)
    variant = original.copy()
    variant[20:32] = [1, 0]
    result = score(variant, truth, labels=["cat", "dog"], original=original)
    assert (result.worst_class, result.class_delta) == ("dog", pytest.approx(-0.6))


@pytest.mark.parametrize("n", [1, 8, 13])
def test_bits_go_there_and_back(n: int) -> None:
    bits = np.random.default_rng(n).random(n) < 0.5
    again = unpack_shares(pack_shares(bits), n)
    assert again is not None
    np.testing.assert_array_equal(again, bits)
    assert unpack_shares(pack_shares(bits), n + 8) is None
    assert unpack_shares("no hex", n) is None


def test_the_score_keeps_which_images_are_right() -> None:
    result = score(decisions([0, 2], 3), np.zeros(3, np.int64), labels=["a", "b"])
    kept = unpack_shares(result.right or "", 3)
    assert kept is not None
    assert kept.tolist() == [True, False, True]


def test_scoring_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    whole = score(logits, truth, labels=list("abcdefg"))
    monkeypatch.setattr(accuracy_module, "_ROWS", 8)
    assert score(logits, truth, labels=list("abcdefg")) == whole
