"""Training with int8 simulated: what it leaves in the checkpoint, and which labels it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgetl import pipeline
from edgetl.data.dataset import Dataset, Sample
from edgetl.export_options import options_of_export
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.training_history import Epoch, History
from edgetl.photos_to_export import Photos, available_photos
from edgetl.recipe import ExportSection, Recipe, TrainOptions
from edgetl.training import qat
from edgetl.training.finetune import Trained
from edgetl_export import Source
from edgetl_export.progress import untold
from edgetl_export.quantize.distill import DistillOptions
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess

SPEC = Preprocess(resize=16, crop=(16, 16))
GREY = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = (Label("n1", "red"), Label("n2", "green"), Label("n3", "blue"))


def colours(n: int, seed: int) -> tuple[Sample, ...]:
    """Noisy images (16, 16, 3), each with more of the colour of its label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.normal(120, 40, (n, 16, 16, 3)) + 50 * np.eye(3)[labels][:, None, None]
    return tuple(
        Sample(image, int(label), str(i))
        for i, (image, label) in enumerate(zip(np.clip(images, 0, 255).astype(np.uint8), labels, strict=True))
    )


@pytest.fixture
def source() -> Source:
    """One convolution with batch norm and a head, as they come from random weights."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    return Source("colours", network.eval(), LABELS, SPEC, GREY, checkpoint_sha256="0" * 64)


@pytest.fixture
def data() -> Dataset:
    return Dataset("colours", LABELS, colours(60, 0), colours(40, 1))


def trained(source: Source) -> Trained:
    checkpoint = Checkpoint.of(
        source.module, backbone="small", labels=LABELS, preprocess=SPEC, normalize=GREY, training={"weights": "none"}
    )
    return Trained(checkpoint, History((Epoch(1, 1.0, 1.0, 0.5, None, 1.0),)), 1.0, ("before",), TrainOptions())


@pytest.fixture
def learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few long steps in place of many short ones."""

    def options(**given: Any) -> DistillOptions:
        return DistillOptions(**given, epochs=8, rate=0.1, labels=10.0)

    monkeypatch.setattr(qat, "DistillOptions", options)


@pytest.mark.usefixtures("learns")
def test_the_checkpoint_is_of_the_same_shape_and_has_learned_the_labels(source: Source, data: Dataset) -> None:
    old = trained(source)
    new = qat.train_quantized(old, source, data, TrainOptions())
    state, before = new.checkpoint.state, old.checkpoint.state
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in before.items()}
    assert not torch.equal(state["0.weight"], before["0.weight"])
    assert not torch.equal(state["5.bias"], before["5.bias"])
    facts = new.checkpoint.training
    assert (facts["weights"], facts["qat"], facts["qat_epochs"], facts["qat_photos"]) == ("none", True, 8, 60)
    assert 0 < facts["qat_val_int8_top1"] <= 1
    assert new.notes[0] == "before"
    assert "qat: validation top-1" in new.notes[1]
    assert "kept" in new.notes[1]
    assert new.seconds > old.seconds
    assert loss(state, source, data) < 0.95 * loss(before, source, data), "the labels were not learned"


def loss(state: dict[str, torch.Tensor], source: Source, data: Dataset) -> float:
    """Cross-entropy with the labels of the validation images."""
    source.module.load_state_dict(state)
    logits = source.reference()(np.stack([np.asarray(sample.source) for sample in data.val]))
    return float(nn.functional.cross_entropy(torch.tensor(logits), torch.tensor([s.label for s in data.val])))


@pytest.mark.usefixtures("learns")
@pytest.mark.parametrize(("top1", "int8_top1"), [(0.5, 0.9), (0.9, 0.5)], ids=["float is worse", "int8 is worse"])
def test_a_checkpoint_that_would_become_worse_stays(
    source: Source, data: Dataset, monkeypatch: pytest.MonkeyPatch, top1: float, int8_top1: float
) -> None:
    judged = iter([qat._Judged(0.9, 0.8), qat._Judged(top1, int8_top1)])
    monkeypatch.setattr(qat, "_judge", lambda *_: next(judged))
    old = trained(source)
    new = qat.train_quantized(old, source, data, TrainOptions())
    assert all(torch.equal(new.checkpoint.state[name], value) for name, value in old.checkpoint.state.items())
    assert new.checkpoint.training["qat"] is False
    assert "stays as it was" in new.notes[-1]


def test_a_point_may_be_lost_for_int8() -> None:
    before = qat._Judged(0.9, 0.8)
    assert qat._is_kept(before, qat._Judged(0.895, 0.8))
    assert not qat._is_kept(before, qat._Judged(0.885, 0.9))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_recipe_switches_it_on(
    source: Source, data: Dataset, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    old = trained(source)
    monkeypatch.setattr(pipeline, "finetune", lambda *_, **__: old)
    monkeypatch.setattr(pipeline, "check_start", lambda *_: None)
    monkeypatch.setattr(pipeline, "source_of", lambda *_: source)
    monkeypatch.setattr(
        pipeline, "train_quantized", lambda old, *_, **__: dataclasses.replace(old, notes=("quantised",))
    )
    _, new = pipeline.train(Recipe().updated({"train": {"qat": wanted}}), dataset=data)
    assert new.notes == (("quantised",) if wanted else ("before",))


@pytest.fixture
def checkpoint(source: Source) -> Checkpoint:
    return trained(source).checkpoint


def test_folders_are_matched_to_labels_by_id_or_name(
    make_photos: Callable[..., Path], tmp_path: Path, checkpoint: Checkpoint
) -> None:
    make_photos(tmp_path / "photos" / "train", {"blue": 6, "n2": 6})
    photos = available_photos(
        tmp_path / "photos", checkpoint, ExportSection(quantize="qat"), skip_bad=False, tell=untold
    )
    options = options_of_export(checkpoint, Photos(photos, photos[:1]), ExportSection(quantize="qat"))
    assert [Path(str(photo.source)).parent.name for photo in photos] == ["blue"] * 6 + ["n2"] * 6
    assert options.int8.labels == (2,) * 6 + (1,) * 6
    without = options_of_export(checkpoint, Photos(photos, photos[:1]), ExportSection())
    assert without.int8.labels == ()


@pytest.mark.parametrize("folders", [{"n1": 6, "tulips": 6}, {"": 6}], ids=["no label of the model", "no folders"])
def test_photos_without_a_label_are_refused(
    make_photos: Callable[..., Path], tmp_path: Path, checkpoint: Checkpoint, folders: dict[str, int]
) -> None:
    make_photos(tmp_path / "photos", folders)
    out = tmp_path / "x.edgetl"
    with pytest.raises(UsageError, match=r"qat trains on labels: .*(?s:.*)--quantize distill needs no labels"):
        pipeline.export_checkpoint(checkpoint, tmp_path / "photos", out, ExportSection(("onnx",), quantize="qat"))
    assert not out.exists()


@pytest.mark.parametrize(("augment", "mirror"), [("photo", True), ("similar", True), ("shift", False), (None, True)])
def test_digits_are_not_mirrored(checkpoint: Checkpoint, data: Dataset, augment: str | None, *, mirror: bool) -> None:
    training = {} if augment is None else {"options": {"augment": augment}}
    photos = Photos(data.train, data.train[:1])
    options = options_of_export(
        dataclasses.replace(checkpoint, training=training), photos, ExportSection(quantize="qat")
    )
    assert options.int8.distillation.mirror is mirror
