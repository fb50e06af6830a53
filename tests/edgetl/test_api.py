"""``api.export`` of a plain weights file: what the command line does, with the same errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgetl import api
from edgetl.cli.main import main
from edgetl.models.backbones import build
from edgetl.models.checkpoint import open_checkpoint
from edgetl.recipe import ExportSection
from edgetl_runtime import open_bundle
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.manifest import Label, Preprocess

NAME = "squeezenet1_1"
OPTIONS = ExportSection(targets=("onnx",), precisions=("fp32",))


@pytest.fixture
def photos(make_photos: Callable[..., Path], tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"blue": 5, "green": 5, "red": 5})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(build(NAME, 3).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.slow
def test_it_is_the_command_line_from_python(weights: Path, photos: Path, tmp_path: Path) -> None:
    told: list[str] = []
    given: dict[str, Any] = {"backbone": NAME, "image_size": 48, "decode": "scaled"}
    out = api.export(
        str(weights), calibration=photos, out=tmp_path / "a.edgetl", options=OPTIONS, tell=told.append, **given
    )
    assert out == tmp_path / "a.edgetl"
    words = ["export", str(weights), "--calibration", str(photos), "--out", str(tmp_path / "b.edgetl")]
    words += ["--targets", "onnx", "--precisions", "fp32", "--backbone", NAME, "--image-size", "48"]
    assert main([*words, "--decode", "scaled"]) == 0
    ours, theirs = open_bundle(out).manifest, open_bundle(tmp_path / "b.edgetl").manifest
    assert [label.id for label in ours.labels] == ["blue", "green", "red"]
    assert ours.preprocess == Preprocess(55, (48, 48), decode="scaled")
    for part in ("labels", "preprocess", "normalize", "input", "output", "golden"):
        assert getattr(ours, part) == getattr(theirs, part)
    assert ours.provenance["checkpoint_sha256"] == theirs.provenance["checkpoint_sha256"]
    assert any("labels are those of" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "list", "tuple"])
def test_labels_are_a_file_or_names(kind: str, weights: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("crane\ncrane\nheron\n")
    given: Any = {"file": str(tmp_path / "labels.txt"), "list": ["crane", "crane", "heron"]}.get(
        kind, ("crane", "crane", "heron")
    )
    told: list[str] = []
    out = api.export(
        weights, backbone=NAME, image_size=48, labels=given, calibration=photos, out=tmp_path / "a.edgetl",
        options=OPTIONS, tell=told.append,
    )  # fmt: skip
    expected = (Label("0", "crane"), Label("1", "crane"), Label("heron", "heron"))
    assert open_bundle(out).manifest.labels == expected
    assert "labels whose name is there twice, with their ids: crane (0), crane (1)" in told


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"backbone": "resnet18"}, ["--backbone", "resnet18"]),
        ({"backbone": NAME, "channels": 1}, ["--backbone", NAME, "--channels", "1"]),
        ({"backbone": NAME, "image_size": 8}, ["--backbone", NAME, "--image-size", "8"]),
        ({"backbone": NAME, "labels": "two.txt"}, ["--backbone", NAME, "--labels", "two.txt"]),
        ({"backbone": NAME, "labels": "gone.txt"}, ["--backbone", NAME, "--labels", "gone.txt"]),
    ],
    ids=str,
)
def test_errors_are_those_of_the_command_line(
    given: dict[str, Any],
    words: list[str],
    weights: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("a\nb\n")
    with pytest.raises(EdgetlError) as raised:
        api.export(weights, calibration=photos, out="a.edgetl", **given)
    assert main(["export", str(weights), "--calibration", str(photos), "--out", "a.edgetl", *words]) == 2
    assert str(raised.value) in capsys.readouterr().err
    assert not Path("a.edgetl").exists()


@pytest.mark.parametrize(
    "given", [{"backbone": NAME}, {"labels": ["a", "b", "c"]}, {"image_size": 64}, {"channels": 3}]
)
def test_a_checkpoint_knows_all_that_itself(given: dict[str, Any], weights: Path, photos: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(weights, backbone=NAME, image_size=48)
    checkpoint.save(tmp_path / "checkpoint")
    for which in (checkpoint, tmp_path / "checkpoint"):
        with pytest.raises(UsageError, match="knows its own"):
            api.export(which, calibration=photos, out=tmp_path / "a.edgetl", **given)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", ""], ["a", "a", "a"], ["a", "b", 3], []])
def test_a_list_that_cannot_be_labels(labels: Any, weights: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgetlError, match="labels"):
        api.export(weights, backbone=NAME, labels=labels, calibration=photos, out=tmp_path / "a.edgetl")
