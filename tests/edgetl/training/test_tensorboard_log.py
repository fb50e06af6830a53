"""TensorBoard's folder: what is written to it, and what is said without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgetl import pipeline
from edgetl.models.training_history import Epoch, History
from edgetl.recipe import Recipe
from edgetl.training.tensorboard_log import check_log, write_log
from edgetl_runtime.errors import MissingDependency, OutputError

HISTORY = History((Epoch(1, 1.0, 1.1, 0.5, None, 1.0), Epoch(2, 0.8, 0.9, 0.7, 0.125, 2.0)))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, round(event.value, 4)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def test_every_number_is_written_by_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write_log(HISTORY, tmp_path / "new" / "board")
    assert scalars(tmp_path / "new" / "board") == {
        "loss/training": [(1, 1.0), (2, 0.8)],
        "loss/validation": [(1, 1.1), (2, 0.9)],
        "top-1/validation": [(1, 0.5), (2, 0.7)],
        "learning rate/head": [(2, 0.125)],
        "epoch/seconds": [(1, 1.0), (2, 2.0)],
    }


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    check_log(tmp_path / "new" / "board")
    assert not list(tmp_path.iterdir())
    write_log(HISTORY, tmp_path / "board")
    before = list((tmp_path / "board").iterdir())
    check_log(tmp_path / "board")
    assert list((tmp_path / "board").iterdir()) == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="--tensorboard"):
        check_log(tmp_path / "file")


def test_without_it_nothing_is_trained(
    make_photos: Callable[[Path, Mapping[str, int]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    photos = make_photos(tmp_path / "photos", {"red": 8, "green": 8})
    sections = {"data": {"path": photos}, "model": {"weights": "none"}}
    recipe = Recipe().updated({**sections, "train": {"strategy": "full", "tensorboard": "board"}})
    with pytest.raises(MissingDependency, match=r"edgetl\[tensorboard\]"):
        pipeline.train(recipe)


def test_a_training_is_on_the_board_and_its_folder_not_in_the_checkpoint(
    make_photos: Callable[[Path, Mapping[str, int]], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    recipe = Recipe().updated(
        {
            "data": {"path": make_photos(tmp_path / "photos", {"red": 8, "green": 8})},
            "model": {"backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32},
            "train": {"strategy": "full", "epochs": 1, "tensorboard": str(tmp_path / "board")},
        }
    )
    _, trained = pipeline.train(recipe)
    assert scalars(tmp_path / "board")["loss/validation"] == [(1, round(trained.history.best.val_loss, 4))]
    assert str(tmp_path) not in str(trained.checkpoint.training["options"])


@pytest.mark.parametrize("name", [b"tb\xe9", b"\xff", b"a/\xb2\xd6"])
def test_a_folder_that_tensorboard_cannot_name_is_refused_first(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    with pytest.raises(OutputError, match="its name is no UTF-8"):
        check_log(folder)
    assert not list(tmp_path.iterdir())
