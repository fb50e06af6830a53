"""What makes sense for one label a photo alone is refused elsewhere, before anything is read or trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgetl.cli.main import main
from edgetl.models.options import ModelOptions
from edgetl.tasks import task_of
from edgetl.training.start import untrained


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--quantize", "qat"], "qat says nothing in"),
        (["--qat"], "qat says nothing in"),
        (["--features", "pooled"], "features say nothing in"),
        (["--head", "none-such"], "has no head 'none-such'"),
        (["--resize", "squeeze"], "resize"),
    ],
)
def test_options_that_say_nothing(
    task: str, words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    asked = ["run", "--task", task, "--data", str(photos), "--weights", "none", "--out", str(tmp_path / "b"), *words]
    assert main(asked) == 2
    told = capsys.readouterr().err
    assert what in told
    assert "fix:" in told
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("task", "words", "what"),
    [
        ("classification", ["--boxes-in-graph"], "--boxes-in-graph says nothing in classification"),
        ("detection", ["--labels-in-graph"], "--labels-in-graph says nothing in detection"),
        ("detection", ["--upsample", "graph"], "--upsample says nothing in detection"),
        ("segmentation", ["--boxes-in-graph"], "--boxes-in-graph says nothing in segmentation"),
        (
            "segmentation",
            ["--upsample", "graph", "--targets", "tflite", "--precisions", "w8a16"],
            "upsampled_logits cannot be had at w8a16",
        ),
    ],
)
def test_decodings_that_are_another_tasks(
    task: str, words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for index in range(24):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    out = tmp_path / "out"
    assert main(["run", "--task", task, "--data", str(tmp_path), "--weights", "none", "--out", str(out), *words]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(("task", "head"), [("detection", "ssdlite"), ("segmentation", "lraspp")])
def test_a_network_to_look_at_has_the_head_that_the_photos_need(task: str, head: str) -> None:
    demo = task_of(task).demo()
    checkpoint = untrained(demo.dataset, ModelOptions(backbone="mobilenet_v2", image_size=64))
    assert checkpoint.head is not None
    assert (checkpoint.task, checkpoint.head.name) == (task, head)
    assert checkpoint.preprocess.crop == (64, 64)


@pytest.mark.parametrize(
    ("task", "words", "what"),
    [
        ("classification", ["--imbalance", "dice"], "--imbalance dice says nothing in classification"),
        ("detection", ["--imbalance", "dice"], "--imbalance dice says nothing in detection"),
        ("detection", ["--imbalance", "focal"], "--imbalance focal says nothing in detection"),
        ("detection", ["--mixup", "0.2"], "--mixup says nothing in detection"),
        ("detection", ["--cutmix", "1"], "--cutmix says nothing in detection"),
        ("segmentation", ["--cutmix", "1"], "cutmix says nothing in segmentation"),
    ],
)
def test_losses_of_another_task(
    task: str, words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before photos are opened, which cannot be read here: a dry run says it too."""
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(5):
            (tmp_path / "photos" / label / f"{index}.png").write_text("no photo")
    asked = ["train", "--task", task, "--data", str(tmp_path / "photos"), "--weights", "none", "--strategy", "full"]
    assert main([*asked, "--out", str(tmp_path / "out"), "--dry-run", *words]) == 2
    assert what in capsys.readouterr().err
