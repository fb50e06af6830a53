"""The rule for times, with and without a wait for a core."""

from __future__ import annotations

import pytest

from edgetl.verify.gate.decision import decide_interval


def verdict(low: float, high: float, limit: float, waited: float, *, least: bool = False) -> str:
    found = decide_interval(
        lambda time: time >= limit if least else time <= limit, (low + high) / 2, (low, high), 80, waited
    )
    return "fail" if not found.passed else "undecided" if found.undecided else "pass"


@pytest.mark.parametrize(
    ("low", "high", "waited", "wanted"),
    [
        (0.8, 0.9, 0.0, "pass"),
        (1.1, 1.2, 0.0, "fail"),
        (0.9, 1.1, 0.0, "undecided"),
        (0.8, 0.9, 0.1, "undecided"),
        (0.7, 0.8, 0.1, "pass"),
        (1.15, 1.2, 0.1, "fail"),
        (1.1, 1.2, 0.1, "undecided"),
        (0.3, 0.4, 0.5, "undecided"),
        (0.2, 0.25, 0.5, "pass"),
        (1.9, 1.95, 0.5, "undecided"),
        (2.1, 2.2, 0.5, "fail"),
    ],
)
def test_a_wait_makes_times_less_sure_to_both_sides(low: float, high: float, waited: float, wanted: str) -> None:
    assert verdict(low, high, 1.0, waited) == wanted
    assert verdict(1 / high, 1 / low, 1.0, waited, least=True) == wanted, "a speed-up is the same upside down"


def test_a_time_that_is_measured_once() -> None:
    found = decide_interval(lambda time: time <= 100.0, 150.0, None, waited=0.5)
    assert (found.passed, found.undecided, found.interval) == (True, True, None)
    assert str(found.note).startswith("undecided: other programs kept this one waiting for 50% of the time")
    assert "75 to 300" in str(found.note)
    assert not decide_interval(lambda time: time <= 100.0, 150.0, None).passed
    assert not decide_interval(lambda time: time <= 100.0, 250.0, None, waited=0.5).passed
