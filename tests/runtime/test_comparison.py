"""SQNR against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgetl_runtime import sqnr_db


def test_known_ratios() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert sqnr_db(reference, np.array([3.0, 4.5], np.float32)) == pytest.approx(20.0)
    assert sqnr_db(reference, 2 * reference) == pytest.approx(0.0)
    assert sqnr_db(reference, reference) == math.inf


def test_sums_do_not_overflow_their_type() -> None:
    reference = np.full(10, 60000.0, np.float16)
    assert sqnr_db(reference, reference * np.float16(0.9)) == pytest.approx(20.0, abs=0.1)


def test_nothing_to_compare_with() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert sqnr_db(zero, one) == -math.inf
    assert sqnr_db(zero, zero) == math.inf
    for bad in (np.nan, np.inf):
        assert sqnr_db(one, np.array([1, 1, bad], np.float32)) == -math.inf
    with pytest.raises(ValueError, match="shapes"):
        sqnr_db(one, one[:2])
