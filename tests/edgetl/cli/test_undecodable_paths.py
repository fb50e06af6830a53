"""Paths that are no UTF-8, in every place where a command takes one: all of them work, and keep their bytes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from edgetl.cli.main import main
from edgetl_runtime import load
from edgetl_runtime.cli import main as run_on_device

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names"), pytest.mark.slow]
ODD = os.fsdecode(b"o\xe9")
NETWORK = ["--backbone", "squeezenet1_1", "--image-size", "32"]
FILES = ["--targets", "onnx", "--precisions", "fp32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of that name with photos, labels, weights, and a bundle that was exported there."""
    folder = tmp_path_factory.mktemp("place") / ODD
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / ODD / label).mkdir(parents=True)
        for n in range(5):
            image = Image.fromarray(random.integers(0, 256, (48, 60, 3), np.uint8))
            with (folder / ODD / label / f"{ODD}{n}.png").open("wb") as file:
                image.save(file, "PNG")
    (folder / f"{ODD}.txt").write_text("a\nb\n")
    with (folder / f"{ODD}.pth").open("wb") as file:
        torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), file)
    words = ["export", str(folder / f"{ODD}.pth"), *NETWORK, *FILES, "--labels", str(folder / f"{ODD}.txt")]
    words += ["--calibration", str(folder / ODD), "--out", str(folder / f"{ODD}.edgetl")]
    assert main(words) == 0
    return folder


def names(folder: Path) -> set[bytes]:
    return {os.fsencode(path.name) for path in folder.iterdir()}


def there(folder: Path, *expected: str) -> None:
    """Files of exactly these names, whose content is UTF-8."""
    for name in expected:
        assert os.fsencode(name) in names(folder)
        (folder / name).read_bytes().decode()


def test_an_export_writes_there_and_nowhere_else(place: Path) -> None:
    assert names(place.parent) == {b"o\xe9"}
    assert names(place) == {b"o\xe9", b"o\xe9.txt", b"o\xe9.pth", b"o\xe9.edgetl"}
    with load(place / f"{ODD}.edgetl") as classifier:
        assert classifier.predict(place / ODD / "a" / f"{ODD}0.png").top.id in "ab"
    with load(place / f"{ODD}.edgetl" / "onnx" / "model.fp32.onnx") as classifier:
        assert [label.id for label in classifier.manifest.labels] == ["a", "b"]


def test_a_verification_reads_and_writes_everything_there(place: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(place / f"{ODD}.edgetl", tmp_path / f"{ODD}.edgetl")
    words = ["verify", str(bundle), "--data", str(place / ODD), "--record", "--keep-reference"]
    for option in ("json", "html", "markdown", "junit", "write-gate"):
        words += [f"--{option}", str(tmp_path / f"{ODD}.{option}")]
    assert main(words) == 0
    there(tmp_path, *(f"{ODD}.{option}" for option in ("json", "html", "markdown", "junit", "write-gate")))
    words = ["verify", str(bundle), "--data", str(place / ODD), "--gate", str(tmp_path / f"{ODD}.write-gate")]
    assert main([*words, "--reference", str(bundle / "reference")]) in (0, 1)  # as the network decides at random
    assert main(["inspect", str(bundle), "--json", str(tmp_path / f"{ODD}i.json")]) == 0
    assert main(["bench", str(bundle), "--seconds", "0.1", "--json", str(tmp_path / f"{ODD}b.json")]) == 0
    there(tmp_path, f"{ODD}i.json", f"{ODD}b.json")


def test_the_device_reads_and_writes_there(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, photo = place / f"{ODD}.edgetl", place / ODD / "a" / f"{ODD}0.png"
    zipped = tmp_path / f"{ODD}.edgetl"
    shutil.move(shutil.make_archive(str(tmp_path / "a"), "zip", bundle), zipped)
    for source in (bundle, zipped, bundle / "onnx" / "model.fp32.onnx"):
        result = tmp_path / f"{ODD}.json"
        assert run_on_device(["predict", str(source), str(photo), "--json", str(result)]) == 0
        assert json.loads(result.read_bytes())
    there(tmp_path, f"{ODD}.json")
    assert run_on_device(["self-test", str(zipped), "--json", str(tmp_path / f"{ODD}s.json")]) == 0
    assert run_on_device(["predict", str(bundle), str(photo) + "x"]) == 2
    assert "no image file at" in capsys.readouterr().err


def test_a_training_and_what_comes_of_it(place: Path, tmp_path: Path) -> None:
    words = ["--data", str(place / ODD), *NETWORK, "--weights", str(place / f"{ODD}.pth"), "--epochs", "1"]
    result = ["--json", str(tmp_path / f"{ODD}.json"), "--out", str(tmp_path / f"{ODD}.edgetl")]
    assert main(["run", *words, *FILES, *result]) in (0, 1)  # as the network decides at random
    there(tmp_path, f"{ODD}.json")
    assert main(["train", *words, "--out", str(tmp_path / f"{ODD}.ckpt")]) == 0
    words = ["export", str(tmp_path / f"{ODD}.ckpt"), "--calibration", str(place / ODD), *FILES]
    assert main([*words, "--out", str(tmp_path / f"{ODD}2.edgetl")]) == 0
    assert names(tmp_path) == {b"o\xe9.json", b"o\xe9.ckpt", b"o\xe9.edgetl", b"o\xe92.edgetl"}


def test_a_recipe_lies_there(place: Path, tmp_path: Path) -> None:
    (tmp_path / f"{ODD}.toml").write_text(f'[train]\nepochs = 1\n[data]\npath = "{tmp_path}"\n')
    words = ["train", "--recipe", str(tmp_path / f"{ODD}.toml"), "--data", str(place / ODD), *NETWORK]
    words += ["--weights", str(place / f"{ODD}.pth"), "--out", str(tmp_path / ODD / f"{ODD}.ckpt")]
    assert main(words) == 0
    assert names(tmp_path / ODD) == {b"o\xe9.ckpt"}
