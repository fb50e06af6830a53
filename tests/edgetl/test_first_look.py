"""Photos and options are looked at first: before torch is imported, and before weights are looked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgetl import api, pipeline
from edgetl.cli.main import main
from edgetl.first_look import look_at_calibration, look_at_photos
from edgetl.recipe import Recipe
from edgetl_runtime.errors import DataError, UsageError

Capture = pytest.CaptureFixture[str]
MakePhotos = Callable[[Path, Mapping[str, int]], Path]
ROOT = Path(__file__).parents[2]


def with_options(**sections: Mapping[str, object]) -> Recipe:
    return Recipe().updated(sections)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--data", "misspelt", "--out", "x.edgetl"],
        ["train", "--data", "misspelt", "--out", "x.checkpoint"],
        ["export", "gone.safetensors", "--calibration", "misspelt", "--backbone", "resnet18", "--out", "x.edgetl"],
        ["run", "--data", ".", "--gate", "misspelt", "--out", "x.edgetl"],
        ["lr-range", "--data", "misspelt"],
        ["compare", "--data", "misspelt", "--backbones", "resnet18", "--out", "x"],
        ["learning-curve", "--data", "misspelt", "--out", "x"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_misspelt_folder_costs_no_import_of_torch(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom edgetl.cli.main import main\n"
        f"code = main({words!r})\n"
        "print(code, [name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "runtime")))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[-2] == "2 []", done.stderr
    assert "misspelt" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_is_said_within_two_seconds(tmp_path: Path) -> None:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "runtime")))
    command = [sys.executable, "-m", "edgetl", "run", "--data", "misspelt", "--out", "x.edgetl"]
    seconds = []
    for _ in range(3):  # the first writes what Python compiles
        start = time.monotonic()
        subprocess.run(command, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, check=False)
        seconds.append(time.monotonic() - start)
    assert min(seconds[1:]) < 2.0


def test_photos_come_before_weights(make_photos: MakePhotos, tmp_path: Path) -> None:
    few = make_photos(tmp_path / "few", {"red": 2, "blue": 2})
    recipe = with_options(data={"path": few}, model={"weights": "gone.pth"})
    for start in (lambda: pipeline.run(recipe, tmp_path / "x.edgetl"), lambda: pipeline.train(recipe)):
        with pytest.raises(DataError, match="too few training images"):
            start()
    with pytest.raises(DataError, match="too few training images"):
        api.finetune(few, weights="gone.pth")


def test_what_is_there_is_told(make_photos: MakePhotos, tmp_path: Path) -> None:
    told: list[str] = []
    photos = make_photos(tmp_path / "photos", {"red": 6, "blue": 6})
    listing = look_at_photos(with_options(data={"path": photos}), tell=told.append)
    assert listing is not None
    assert told == listing.lines()
    with pytest.raises(UsageError, match="no photos to train on"):
        look_at_photos(Recipe())


def test_arrays_wait_for_the_weights_that_say_how_many_channels(tmp_path: Path) -> None:
    """A file of weights may be for four channels, and then .npy files are the photos."""
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for n in range(6):
            np.save(tmp_path / "photos" / label / f"{n}.npy", np.zeros((8, 8, 4), np.uint8))
    (tmp_path / "four.safetensors").write_text("")
    recipe = with_options(data={"path": tmp_path / "photos"}, model={"weights": str(tmp_path / "four.safetensors")})
    assert look_at_photos(recipe) is None
    with pytest.raises(DataError, match=r"left out: 12 \.npy"):
        look_at_photos(recipe.updated({"model": {"channels": 3}}))
    listing = look_at_photos(recipe.updated({"model": {"channels": 4}}))
    assert listing is not None
    assert listing.photos == 12


def test_calibration_photos_are_counted(make_photos: MakePhotos, tmp_path: Path) -> None:
    told: list[str] = []
    photos = make_photos(tmp_path / "photos", {"red": 6, "blue": 7})
    assert look_at_calibration(tmp_path / "gone", photos, channels=None, tell=told.append) == 13
    assert told == [f"{photos}: 13 photos in 2 folders to calibrate on"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        look_at_calibration(tmp_path / "gone", tmp_path / "empty", channels=None)


def test_a_checkpoint_says_how_many_channels(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    np.save(tmp_path / "photos" / "1.npy", np.zeros((8, 8, 4), np.uint8))
    (tmp_path / "checkpoint").mkdir()
    assert look_at_calibration(tmp_path / "checkpoint", tmp_path / "photos", channels=None) is None
    (tmp_path / "checkpoint" / "checkpoint.json").write_text(json.dumps({"preprocess": {"channels": 4}}))
    assert look_at_calibration(tmp_path / "checkpoint", tmp_path / "photos", channels=None) == 1


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_dry_run_looks_into_photos_and_says_how_long(
    command: str, make_photos: MakePhotos, tmp_path: Path, capsys: Capture
) -> None:
    photos = make_photos(tmp_path / "photos", {"red": 6, "blue": 6})
    (photos / "blue" / "twin.jpg").write_bytes((photos / "red" / "000.jpg").read_bytes())
    words = [command, "--data", str(photos), "--weights", "none", "--strategy", "full", "--image-size", "32"]
    words += ["--backbone", "mobilenet_v3_small", "--out", str(tmp_path / "x"), "--dry-run"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "13 photos, 2 labels" in captured.err
    assert "the same content under two labels" in captured.err
    assert captured.out.startswith("about ")
    assert "from a short measurement here" in captured.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    (photos / "red" / "001.jpg").write_text("no photo")
    assert main(words) == 2
    assert "001.jpg" in capsys.readouterr().err


def test_a_dry_export_says_what_its_estimate_is_from(make_photos: MakePhotos, tmp_path: Path, capsys: Capture) -> None:
    photos = make_photos(tmp_path / "photos", {"red": 6, "blue": 6})
    out = str(tmp_path / "x.edgetl")
    words = ["export", str(tmp_path / "gone.pth"), "--calibration", str(photos), "--out", out, "--dry-run"]
    assert main(words) == 2  # the network is opened too
    assert "gone.pth" in capsys.readouterr().err
