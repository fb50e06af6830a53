from __future__ import annotations

import math

import numpy as np
import pytest

from edgetl.stats import unpack_shares
from edgetl.verify.measure.parity import compare
from edgetl.verify.report import SQNR_LIMIT_DB
from edgetl_runtime.comparison import sqnr_db

RNG = np.random.default_rng(0)


def test_identical_logits_agree_wholly_and_have_a_number_for_sqnr() -> None:
    logits = RNG.normal(size=(20, 5)).astype(np.float32)
    parity = compare(logits, logits.copy())
    assert (parity.n, parity.top1_agreement, parity.max_abs, parity.cosine) == (20, 1.0, 0.0, 1.0)
    assert parity.sqnr_db == SQNR_LIMIT_DB


def test_sqnr_of_a_known_error() -> None:
    reference = np.full((10, 4), 2.0, np.float32)
    outputs = reference.copy()
    outputs[:, 0] += 0.2  # signal 4 * 4 per row, error 0.04 per row: a ratio of 400
    parity = compare(reference, outputs)
    assert parity.sqnr_db == pytest.approx(10 * math.log10(400), abs=1e-4)
    assert parity.max_abs == pytest.approx(0.2, abs=1e-6)


def test_cosine_is_the_mean_over_images() -> None:
    reference = np.array([[1, 0], [1, 0]], np.float32)
    outputs = np.array([[2, 0], [0, 3]], np.float32)
    assert compare(reference, outputs).cosine == pytest.approx(0.5)


def test_agreement_counts_decisions_not_distances() -> None:
    reference = np.array([[3, 1, 0], [0, 5, 1], [1, 0, 2], [9, 8, 7]], np.float32)
    outputs = reference * 10
    outputs[3] = [0, 1, 0]
    assert compare(reference, outputs).top1_agreement == 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_disagrees_whatever_argmax_says(bad: float) -> None:
    reference = np.array([[3, 1], [3, 1], [3, 1], [3, 1]], np.float32)
    outputs = reference.copy()
    outputs[0, 1 if bad < 0 else 0] = bad  # argmax would still be 0
    parity = compare(reference, outputs)
    assert parity.top1_agreement == 0.75
    assert (parity.sqnr_db, parity.max_abs, parity.cosine, parity.non_finite) == (-SQNR_LIMIT_DB, None, None, 1)


def test_zeros_instead_of_logits_are_no_similarity() -> None:
    reference = RNG.normal(size=(6, 3)).astype(np.float32)
    parity = compare(reference, np.zeros_like(reference))
    assert parity.sqnr_db == pytest.approx(0.0, abs=1e-6)
    assert parity.cosine == 0.0


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (0, 4)])
def test_shapes_that_cannot_be_compared(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare(np.zeros((2, 4) if shape[0] else (0, 4), np.float32), np.zeros(shape, np.float32))


def test_comparing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 7)).astype(np.float32)
    outputs = reference + rng.normal(scale=0.5, size=(50, 7)).astype(np.float32)
    whole = compare(reference, outputs)
    assert whole.sqnr_db == pytest.approx(sqnr_db(reference, outputs))
    monkeypatch.setattr("edgetl.verify.measure.parity._ROWS", 8)
    parts = compare(reference, outputs)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)
    assert parts.cosine == pytest.approx(whole.cosine)
    assert (parts.top1_agreement, parts.max_abs, parts.agrees) == (whole.top1_agreement, whole.max_abs, whole.agrees)
    outputs[49, 3] = np.nan
    broken = compare(reference, outputs)
    assert (broken.non_finite, broken.sqnr_db, broken.max_abs) == (1, -SQNR_LIMIT_DB, None)


def test_it_keeps_which_images_agree() -> None:
    reference = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    outputs = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    kept = unpack_shares(compare(reference, outputs).agrees or "", 3)
    assert kept is not None
    assert kept.tolist() == [True, False, True]
