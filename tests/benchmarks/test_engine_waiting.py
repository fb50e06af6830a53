from __future__ import annotations

import pytest
from engine_waiting import MODES, Others, Turn, in_turns, ratios, table


def test_ratios_are_taken_round_by_round() -> None:
    turns = {"edgetl": [Turn(1, 1), Turn(10, 20), Turn(2, 2)], "spinning": [Turn(2, 3), Turn(20, 60), Turn(4, 6)]}
    assert ratios(turns, "spinning", "wall_ms") == (pytest.approx(2), pytest.approx(2), pytest.approx(2))
    assert ratios(turns, "spinning", "cpu_ms")[0] == pytest.approx(3)


@pytest.mark.slow
def test_every_setting_has_a_turn_in_every_mode_and_others_are_ended() -> None:
    others = Others(2)
    try:
        found = in_turns({"edgetl": lambda: None, "other": lambda: None}, others, rounds=1)
    finally:
        others.end()
    assert {(mode, len(turns["edgetl"]), len(turns["other"])) for mode, turns in found.items()} == {
        (mode, 1, 1) for mode in MODES
    }
    assert len(table("onnx", found)) == len(MODES)
    assert all(process.poll() is not None for process in others._processes)
