from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import training_data
from PIL import Image

from edgetl.data.augmentation import PRESETS


def test_every_step_has_its_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGETL_CACHE", "")  # it is set back after the script has set it
    monkeypatch.setattr(training_data, "ROUNDS", 1)
    folder = tmp_path / "flowers" / "train" / "roses"
    folder.mkdir(parents=True)
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (300, 270, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.jpg")
    assert training_data.main(["--data", str(tmp_path), "--photos", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 5 + len(PRESETS)
    assert all(float(line.split("|")[2]) > 0 for line in lines)
    assert training_data.main(["--data", str(tmp_path / "none")]) == 2
