"""What makes sense for one label a photo alone is refused elsewhere, before anything is read or trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.cli.main import main
from edgetl.models.options import ModelOptions
from edgetl.tasks import task_of
from edgetl.training.finetune import untrained


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


@pytest.mark.parametrize(("task", "head"), [("detection", "ssdlite"), ("segmentation", "lraspp")])
def test_a_network_to_look_at_has_the_head_that_the_photos_need(task: str, head: str) -> None:
    demo = task_of(task).demo()
    checkpoint = untrained(demo.dataset, ModelOptions(backbone="mobilenet_v2", image_size=64))
    assert checkpoint.head is not None
    assert (checkpoint.task, checkpoint.head.name) == (task, head)
    assert checkpoint.preprocess.crop == (64, 64)
