from __future__ import annotations

from pathlib import Path

import pytest
from runtime_lines import Line, compared, in_rounds, markdown_table, measured, saved

from edgetl_runtime.errors import OutputError


def test_the_ratio_is_that_of_the_medians_and_the_spread_that_of_the_rounds() -> None:
    line = compared("x", "ms", [10, 20, 10, 10], [9, 36, 9, 9], limit=0.95)
    assert line.ratio == pytest.approx(0.9)
    assert line.spread == (pytest.approx(0.9), pytest.approx(1.125))
    assert line.met is True


@pytest.mark.parametrize(
    ("line", "met"),
    [
        (compared("slower", "ms", [10], [9.6], limit=0.95), False),
        (compared("faster", "photos/s", [10], [14.1], limit=1.4, at_least=True), True),
        (compared("not fast enough", "photos/s", [10], [13.9], limit=1.4, at_least=True), False),
        (measured("alone", "us", [41, 41, 39], limit=40), False),
        (Line("alone", "us", 40.0, limit=40.0), True),
        (compared("nothing promised", "ms", [1], [9]), None),
    ],
)
def test_a_target_is_held_against_the_ratio_or_else_the_measurement(line: Line, met: bool | None) -> None:
    assert line.met is met
    assert ("**missed**" in markdown_table([line])) is (met is False)


def test_calls_take_turns_and_the_first_round_is_not_counted() -> None:
    now, done = [0], []

    def call(name: str, ms: int) -> None:
        done.append(name)
        now[0] += (1000 if len(done) <= 2 else ms) * 1_000_000

    calls = {"a": lambda: call("a", 1), "b": lambda: call("b", 2)}
    assert in_rounds(calls, 4, clock=lambda: now[0]) == {"a": [1, 1, 1, 1], "b": [2, 2, 2, 2]}
    assert done[2:] == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_a_file_that_cannot_be_written_is_an_error_to_act_on(tmp_path: Path) -> None:
    saved(None, "nowhere")
    with pytest.raises(OutputError, match="cannot write"):
        saved(tmp_path / "missing" / "table.md", "text")
