"""A source is one module and one line: one that edgetl does not have is exported, verified, and opened again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.cli.main import main
from edgetl.models.sources import SOURCES, SourceKind
from edgetl_runtime import load
from tests.edgetl.models.sources import colours_source
from tests.edgetl.models.sources.colours_source import ENDING

pytestmark = pytest.mark.slow

COLOURS = {"red": [0.8, 0.2, 0.2], "green": [0.2, 0.7, 0.2], "blue": [0.2, 0.2, 0.8]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(8):
            noisy = rng.normal(colour, 0.2, (20, 24, 3)).clip(0, 1) * 255
            Image.fromarray(noisy.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the source, whose line is in the table."""
    line = SourceKind(f"FILE{ENDING}", colours_source.__name__, endings=(ENDING,))
    monkeypatch.setitem(SOURCES, "colours", line)
    path = tmp_path / f"three{ENDING}"
    path.write_text(json.dumps(COLOURS))
    return path


def exported(model: Path, photos: Path, precisions: str) -> Path:
    out = model.with_suffix(".edgetl")
    said = ["--calibration", str(photos), "--targets", "onnx", "--precisions", precisions, "--out", str(out)]
    assert main(["export", str(model), *said]) == 0
    return out


def test_a_source_of_ones_own_goes_all_the_way(model: Path, photos: Path, tmp_path: Path) -> None:
    out, report = exported(model, photos, "fp32,int8"), tmp_path / "report.json"
    assert main(["verify", str(out), "--data", str(photos), "--json", str(report)]) == 0
    variants = {variant["id"]: variant for variant in json.loads(report.read_text())["variants"]}
    assert variants["onnx.fp32"]["parity"]["sqnr_db"] > 100
    assert variants["onnx.int8"]["quality"]["value"] == 1.0
    with load(out) as classifier:
        assert classifier.predict(photos / "blue/0.png").top.name == "blue"


def test_parity_is_against_what_the_source_calls_the_original(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is not what its source says it is fails, though its files give what it gives."""
    right = colours_source.Nearest.__init__
    monkeypatch.setattr(colours_source.Nearest, "__init__", lambda self, colours: right(self, colours.roll(1, 0)))
    assert main(["verify", str(exported(model, photos, "fp32")), "--data", str(photos)]) == 1
