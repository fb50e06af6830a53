from __future__ import annotations

from pathlib import Path

import calibration_memory
import pytest
from calibration_memory import Peak, main


@pytest.mark.parametrize(("grown", "code"), [(1.09, 0), (1.11, 1)])
def test_a_peak_that_grows_by_more_than_a_tenth_is_exit_code_1(
    grown: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(workload: str, data: Path, n: int) -> Peak:
        return Peak(n, 900_000_000, int(1e9 * (grown if n == 2900 else 1)), 1.0)

    monkeypatch.setattr(calibration_memory, "_measured_afresh", measured)
    assert main(["--data", str(tmp_path), "--photos", "2900,250"]) == code
    printed = capsys.readouterr().out
    assert f"{grown:.3f}" in printed
    assert "| 250 | 900 | 1000 | 1.0 |" in printed


@pytest.mark.parametrize("photos", ["250", "250,many", "3,250", "1,2,3"])
def test_numbers_that_make_no_sense_are_refused(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path), "--photos", photos]) == 2
    assert "makes no sense" in capsys.readouterr().err
