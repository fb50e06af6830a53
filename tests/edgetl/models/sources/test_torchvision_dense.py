"""torchvision's detectors and segmentation networks by name: their outputs, their anchors, their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from edgetl.cli.main import main
from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import Checkpoint, attached
from edgetl.models.heads import HeadSpec
from edgetl.models.heads.published_boxes import published_settings
from edgetl.models.options import ModelOptions
from edgetl.models.sources import PUBLISHED
from edgetl.models.sources.opening import SourceOptions, open_source, reopened
from edgetl.models.sources.torchvision_dense import labels_in
from edgetl.models.weights import fit, load_weights
from edgetl.training.options import TrainOptions
from edgetl.training.start import check_start
from edgetl.verify.bundle import source_of
from edgetl_export import capture
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.placing import Placed
from edgetl_runtime.tasks.detection import anchors_of, objects_in_photo

DETECTOR = "ssdlite320_mobilenet_v3_large"
MASKS = [name for name in PUBLISHED if name != DETECTOR]


def of_torchvision(name: str, labels: int) -> Any:
    """Random weights, batch norms with statistics that matter; seeded."""
    torch.manual_seed(0)
    arguments = {"aux_loss": True} if name == "deeplabv3_mobilenet_v3_large" else {}
    classes = labels + (name == DETECTOR)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes, **arguments)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    return model.eval()


def ours(theirs: Any, name: str, labels: int, size: int) -> torch.nn.Module:
    model = build(name, labels, image_size=size)
    done = fit(model, theirs.state_dict(), name, where="a test", keep_head=True)
    assert done == "loaded whole"
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_masks_are_those_of_torchvision_before_its_last_interpolation(name: str) -> None:
    theirs = of_torchvision(name, 4)
    assert labels_in(name, theirs.state_dict()) == 4
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        logits: Tensor = ours(theirs, name, 4, 96)(images)["logits"]
        expected = theirs(images)["out"]
    wide = torch.nn.functional.interpolate(
        logits.permute(0, 3, 1, 2), size=(96, 128), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(wide, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_boxes_are_those_of_torchvision() -> None:
    """Its decoding and its suppression against the device's, on raw outputs that are the same."""
    theirs = of_torchvision(DETECTOR, 3)
    image = torch.rand(3, 320, 320)
    with torch.no_grad():  # so that some scores are high, and no two the same
        maps = list(theirs.backbone(((image - 0.5) / 0.5)[None]).values())
        for layer, level in zip(theirs.head.classification_head.module_list, maps, strict=True):
            layer[1].weight.mul_(2.0 / layer(level).std())
    assert labels_in(DETECTOR, theirs.state_dict()) == 3
    spec, normalize = preset(DETECTOR, mode="stretch")
    assert (spec.crop, spec.mode, normalize.mean) == ((320, 320), "stretch", (0.5, 0.5, 0.5))
    model = ours(theirs, DETECTOR, 3, 320)
    head = HeadSpec("published-boxes", published_settings(spec.crop))
    assert attached(model, head, 3, spec) is model
    checkpoint = Checkpoint.of(
        model,
        backbone=DETECTOR,
        labels=(),
        preprocess=spec,
        normalize=normalize,
        head=head,
        task="detection",
    )
    decoder = checkpoint.decoder
    assert decoder is not None
    theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img = 0.3, 0.5, 50
    with torch.no_grad():
        expected = theirs([image])[0]
        raw = model(((image - 0.5) / 0.5)[None])
    outputs = {name: values[0].numpy() for name, values in raw.items()}
    placed = Placed((320, 320), (320, 320), 0, 0, (320, 320))
    found = objects_in_photo(outputs, placed, decoder, anchors_of(decoder), score=0.3, iou=0.5, most=50)
    assert len(found.scores) > 5
    n = min(10, len(found.scores))
    np.testing.assert_allclose(found.scores[:n], expected["scores"][:n], atol=1e-4)
    np.testing.assert_allclose(found.boxes[:n], expected["boxes"][:n], atol=0.05)
    assert found.labels[:n].tolist() == (expected["labels"][:n] - 1).tolist()


def test_last_layers_are_new_for_other_labels_and_nothing_else(tmp_path: Path) -> None:
    theirs = of_torchvision("lraspp_mobilenet_v3_large", 5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = build("lraspp_mobilenet_v3_large", 2, image_size=64)
    note = load_weights(model, "lraspp_mobilenet_v3_large", tmp_path / "w.pth")
    assert "last layers for other labels start anew" in note
    state = theirs.state_dict()
    for key, value in model.state_dict().items():
        same = state.get(key, state.get(key.replace("head.", "classifier.")))
        if key.split(".")[1] not in ("low_classifier", "high_classifier"):
            assert torch.equal(value, same), key


def test_a_file_of_weights_is_opened_with_its_labels(tmp_path: Path) -> None:
    torch.save(of_torchvision(DETECTOR, 90).state_dict(), tmp_path / "coco.pth")
    opened = open_source(tmp_path / "coco.pth", SourceOptions(backbone=DETECTOR))
    assert isinstance(opened, Checkpoint)
    assert (opened.task, len(opened.labels), opened.labels[0].name) == ("detection", 90, "person")
    opened.save(tmp_path / "kept")
    again = reopened(tmp_path / "kept")  # as verification does it
    assert isinstance(again, Checkpoint)
    assert again.head == opened.head
    specs = capture(source_of(again, "coco")).outputs
    assert [(spec.name, spec.shape) for spec in specs] == [("boxes", (1, 3234, 4)), ("logits", (1, 3234, 91))]
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match="knows 90 labels, and 2 are named"):
        open_source(tmp_path / "coco.pth", SourceOptions(backbone=DETECTOR, labels=tmp_path / "few.txt"))
    with pytest.raises(CheckpointError, match="not deeplabv3_resnet50's"):
        open_source(tmp_path / "coco.pth", SourceOptions(backbone="deeplabv3_resnet50"))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--task", "segmentation", "--backbone", DETECTOR], "comes with a head of its own"),
        (["--task", "detection", "--backbone", DETECTOR, "--head", "ssdlite"], "comes with a head of its own"),
        (["--task", "detection", "--head", "published-boxes"], "has no head 'published-boxes'"),
        (["--task", "detection", "--backbone", DETECTOR, "--image-size", "256"], "takes images of 320 x 320 pixels"),
    ],
)
def test_what_does_not_go_together(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--data", str(tmp_path), "--out", str(tmp_path / "b"), "--weights", "none", *words]) == 2
    assert what in capsys.readouterr().err


def test_a_classifier_is_none_of_them() -> None:
    with pytest.raises(UsageError, match="not for classification"):
        check_start(ModelOptions(DETECTOR, "none"), TrainOptions(strategy="full"))


def test_offline_the_published_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("edgetl.models.sources.torchvision_dense.can_reach", lambda url: False)
    with pytest.raises(CheckpointError, match="published weights of lraspp") as caught:
        load_weights(build("lraspp_mobilenet_v3_large", 2), "lraspp_mobilenet_v3_large", "imagenet")
    assert "lraspp_mobilenet_v3_large-d234d4ea.pth" in caught.value.fix
