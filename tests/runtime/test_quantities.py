"""Which numbers make sense as limits, and how a value is written beside its limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetl_runtime import UsageError
from edgetl_runtime.quantities import DROP, SHARE, Range, number_in_words, percent_in_words, told_apart

NUMBERLESS = [True, "0.97", None, [0.9], 1j, float("nan"), float("inf"), 10**400, 10**5000]


@pytest.mark.parametrize("value", [0, 0.0, 0.97, 1, np.float32(0.5), np.int64(1)])
def test_a_share(value: Any) -> None:
    checked = SHARE.check("top1", value)
    assert (type(checked), checked) == (float, float(value))


@pytest.mark.parametrize("value", NUMBERLESS, ids=lambda value: f"{type(value).__name__}")
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(UsageError, match="top1 must be a number, found") as caught:
        SHARE.check("top1", value)
    assert caught.value.fix == "a share of 1: top1 = 0.97"


@pytest.mark.parametrize(
    ("allowed", "value", "fix"),
    [
        (SHARE, 97, "a share of 1: write 0.97"),
        (SHARE, -0.1, "a share of 1, from 0 to 1, for example 0.97"),
        (SHARE, 970, "a share of 1, from 0 to 1, for example 0.97"),
        (DROP, 1, "a share of 1: write 0.01"),
        (DROP, 0.5, "a share of 1: write 0.005"),
        (DROP, 60, "a share of 1, from 0, below 0.5, for example 0.01"),
        (Range(0.0, 9.0, "cats", 2.0, but=(0.0,)), 0, "cats, above 0 to 9, for example 2"),
        (Range(1e6, 1e9, "bytes", 4e6, (1e3, 1e6)), 4, "bytes: write 4000000"),
    ],
)
def test_what_makes_no_sense_is_told_in_the_right_unit(allowed: Range, value: float, fix: str) -> None:
    with pytest.raises(UsageError, match=f"limit = {value:g} makes no sense") as caught:
        allowed.check("limit", value)
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("value", "more", "text"),
    [
        (0.96997, 0, "0.97"),
        (0.96997, 1, "0.96997"),
        (1.0, 0, "1"),
        (12345.6, 0, "12346"),
        (12345.6, 2, "12345.6"),
        (4_000_000, 0, "4000000"),
        (-0.02, 0, "-0.02"),
        (float("inf"), 0, "inf"),
        (10**400, 0, "1" + "0" * 400),
        (float("nan"), 0, "nan"),
    ],
)
def test_numbers_in_words(value: float, more: int, text: str) -> None:
    assert number_in_words(value, more) == text


@pytest.mark.parametrize(
    ("value", "limit", "texts"),
    [
        (0.5, 0.97, ("0.5", "0.97")),
        (0.96997, 0.97, ("0.96997", "0.97")),
        (0.97, 0.97, ("0.97", "0.97")),
        (0.30000001, 0.3, ("0.30000001", "0.3")),
        (2424000.5, 2424000, ("2424000.5", "2424000")),
    ],
)
def test_what_differs_differs_as_text(value: float, limit: float, texts: tuple[str, str]) -> None:
    assert told_apart(value, limit) == texts


def test_percent_too() -> None:
    assert told_apart(0.0054, 0.005, percent_in_words) == ("0.54%", "0.50%")
    assert told_apart(0.02, 0.005, percent_in_words) == ("2.0%", "0.5%")
