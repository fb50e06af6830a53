"""Anchors, targets, moved boxes, the loss, and what the validation keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgetl.data.augment import DRAWS, augmented, epoch_draws, moves
from edgetl.data.augmentation import PRESETS
from edgetl.data.dataset import Sample
from edgetl.models.heads import ssdlite
from edgetl.tasks.detection import TASK
from edgetl.tasks.detection.anchors import fit_anchors
from edgetl.tasks.detection.demo import SHAPES, demo_shapes
from edgetl.tasks.detection.moving import moved_boxes
from edgetl.tasks.detection.objective import DetectionObjective
from edgetl.tasks.task import Situation, Targets
from edgetl.training.options import TrainOptions
from edgetl.training.plan import plan
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.tasks.detection import anchors_of

CROP = (64, 96)


def settings(crop: tuple[int, int] = CROP) -> dict[str, Any]:
    sides = np.exp(np.random.default_rng(0).uniform(np.log(10), np.log(60), (200, 2)))
    return {**fit_anchors(sides, np.arange(200) % 2, crop), "crop": list(crop)}


def encoded(boxes: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Outputs that say exactly these boxes (n, 4) in pixels, by the nearest anchors."""
    decoder = ssdlite.decoder(settings(), CROP)
    anchors = torch.from_numpy(anchors_of(decoder))
    sides = torch.tensor([CROP[1], CROP[0]])
    outputs = {"boxes": torch.zeros(1, len(anchors), 4), "logits": torch.zeros(1, len(anchors), classes + 1)}
    outputs["logits"][..., 0] = 12.0
    for box, label in zip(boxes, labels.tolist(), strict=True):
        centre, size = (box[:2] + box[2:]) / 2 / sides, (box[2:] - box[:2]) / sides
        place = int(((anchors[:, :2] - centre).abs().sum(1) + (anchors[:, 2:] / size).log().abs().sum(1)).argmin())
        outputs["boxes"][0, place, :2] = (centre - anchors[place, :2]) / anchors[place, 2:] / 0.1
        outputs["boxes"][0, place, 2:] = (size / anchors[place, 2:]).log() / 0.2
        outputs["logits"][0, place, label + 1] = 24.0
    return decoder, outputs


def test_some_anchor_fits_every_box() -> None:
    """Centred on it, an anchor overlaps each box that the data set has mostly by more than half."""
    rng = np.random.default_rng(1)
    sides = np.exp(rng.normal(np.log(40), 0.6, (500, 2)))
    shapes = fit_anchors(sides, rng.integers(0, 3, 500), (320, 320))["shapes"]
    anchors = np.concatenate(shapes) * 320
    common = np.minimum(sides[:, np.newaxis], anchors).prod(axis=2)
    over = common / (sides.prod(axis=1)[:, np.newaxis] + anchors.prod(axis=1) - common)
    assert (over.max(axis=1) > 0.5).mean() > 0.9


def test_a_fine_map_is_there_for_small_boxes_only() -> None:
    labels = np.zeros(50, np.int64)
    assert fit_anchors(np.full((50, 2), 20.0), labels, (320, 320))["strides"] == [8, 16, 32]
    assert fit_anchors(np.full((50, 2), 90.0), labels, (320, 320))["strides"] == [16, 32]
    assert fit_anchors(np.zeros((0, 2)), labels[:0], (320, 320))["strides"] == [16, 32]


@pytest.mark.parametrize("preset", ["objects", "similar", "different", "none"])
def test_boxes_go_where_the_pixels_go(preset: str) -> None:
    """A white rectangle on black, augmented: its box is around what is white."""
    rng = np.random.default_rng(0)
    pixels = torch.zeros(16, 80, 120, 3, dtype=torch.uint8)
    targets = torch.full((16, 2, 6), -1.0)
    for row in range(16):
        left, top = int(rng.integers(30, 60)), int(rng.integers(20, 40))
        pixels[row, top : top + 20, left : left + 30] = 255
        targets[row, 0] = torch.tensor([left, top, left + 30, top + 20, 1, 0])
    draws = epoch_draws(16, 0, 0)
    assert draws.shape[1] == len(DRAWS)
    augmentation = PRESETS[preset]
    seen = augmented(pixels, draws, augmentation, CROP)[:, 0] > 100
    moved = moved_boxes(targets, moves(draws, augmentation, (80, 120), CROP), CROP)
    for row in range(16):
        places = seen[row].nonzero()
        if not len(places):
            continue
        top, left = places.amin(0).tolist()
        bottom, right = (places.amax(0) + 1).tolist()
        box = moved[row, 0, :4].tolist()
        if augmentation.outside == "black" or preset == "none":
            assert box == pytest.approx([left, top, right, bottom], abs=1.5)
        assert moved[row, 1, 4] == -1


def test_what_is_cut_off_is_neither_object_nor_background() -> None:
    targets = torch.tensor([[[0, 0, 10, 10, 1, 0], [0, 0, 40, 10, 1, 0], [0, 0, 14, 10, 1, 0.0]]])
    shift = torch.tensor([[[1.0, 0.0, 12.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)  # 12 pixels to the left
    moved = moved_boxes(targets, shift, (64, 96))
    assert moved[0, :, 4].tolist() == [-1, 1, 1]
    assert moved[0, :, 5].tolist() == [2, 0, 2]
    assert moved[0, 1, :4].tolist() == [0, 0, 28, 10]


def test_targets_lie_in_the_pixels() -> None:
    target = np.array([[10, 20, 30, 40, 1, 0]], np.float64)
    samples = [Sample("a", 0, "a", target, (100, 50)), Sample("b", 0, "b", np.zeros((0, 6)), (10, 10))]
    stretched = TASK.targets(samples, Preprocess(resize=0, crop=(25, 200), mode="stretch"))
    assert stretched[0].tolist() == [[20, 10, 60, 20, 1, 0]]
    assert stretched[1, 0, 4] == -1
    boxed = TASK.targets(samples, Preprocess(resize=0, crop=(100, 100), mode="letterbox"))
    assert boxed[0, 0, :4].tolist() == [10, 45, 30, 65]


def test_the_loss_is_small_where_the_outputs_are_right() -> None:
    boxes = torch.tensor([[10.0, 10, 40, 30], [50, 20, 90, 60]])
    labels = torch.tensor([0, 1])
    decoder, outputs = encoded(boxes, labels, 2)
    objective = DetectionObjective(decoder, 2, CROP, "cpu")
    target = torch.cat((boxes, labels[:, None].float(), torch.zeros(2, 1)), 1)[None]
    right = objective(outputs, Targets(target))
    assert right.shape == (1,)
    wrong = objective({**outputs, "logits": outputs["logits"].flip(2)}, Targets(target))
    moved = objective({**outputs, "boxes": outputs["boxes"] + 1}, Targets(target))
    assert float(wrong) > float(right)
    assert float(moved) > float(right)
    nothing = torch.full_like(target, -1)
    assert float(objective({**outputs, "logits": outputs["logits"].clamp(max=12)}, Targets(nothing))) < 5


def test_the_validation_is_map() -> None:
    boxes = torch.tensor([[10.0, 10, 40, 30], [50, 20, 90, 60]])
    labels = torch.tensor([0, 1])
    decoder, outputs = encoded(boxes, labels, 2)
    objective = DetectionObjective(decoder, 2, CROP, "cpu")
    target = torch.cat((boxes, labels[:, None].float(), torch.zeros(2, 1)), 1)[None]
    loss, quality = objective.judged(objective.judge(outputs, target))
    assert quality == pytest.approx(1.0)
    assert np.isfinite(loss)
    rows = [objective.judge(outputs, target), objective.judge(outputs, target.flip(1) * 0 - 1)]
    assert 0.5 <= objective.judged(torch.cat(rows))[1] <= 1.0  # the same boxes in a photo without objects
    target[0, :, 4] = torch.tensor([1.0, 0.0])
    assert objective.judged(objective.judge(outputs, target))[1] == 0.0
    broken = {name: values * float("nan") for name, values in outputs.items()}
    assert objective.judged(objective.judge(broken, target))[1] == 0.0


def test_demo_photos_have_their_boxes() -> None:
    data = demo_shapes(0)
    assert [label.id for label in data.labels] == list(SHAPES)
    assert (len(data.train), len(data.val), len(data.test)) == (240, 60, 60)
    assert np.array_equal(demo_shapes(0).train[3].source, data.train[3].source)
    counts = [0 if sample.target is None else len(sample.target) for sample in data.train]
    assert min(counts) == 0
    assert max(counts) == 5


@pytest.mark.parametrize(
    "backbone", ["mobilenet_v2", "efficientnet_b0", "mnasnet0_5", "resnet18", "mobilenet_v3_large"]
)
def test_the_head_stands_on_any_backbone(backbone: str) -> None:
    from edgetl.models.backbones import build

    chosen = settings((96, 96))
    network = ssdlite.attach(build(backbone, 2, image_size=(96, 96)), 3, chosen, crop=(96, 96), channels=3).eval()
    with torch.inference_mode():
        outputs = network(torch.zeros(2, 3, 96, 96))
    decoder = ssdlite.decoder(chosen, (96, 96))
    anchors = anchors_of(decoder)
    assert outputs["boxes"].shape == (2, len(anchors), 4)
    assert outputs["logits"].shape == (2, len(anchors), 4)


@pytest.mark.parametrize("side", [96, 100])
def test_anchors_lie_where_the_maps_look(side: int) -> None:
    """A step to the right in a level's map is its stride in the picture, whatever the size of the picture."""
    chosen = settings((side, side))
    decoder = ssdlite.decoder(chosen, (side, side))
    anchors, first = anchors_of(decoder), 0
    for (rows, columns), level, step in zip(
        decoder["anchors"]["grids"], chosen["shapes"], chosen["steps"], strict=True
    ):
        own = anchors[first : first + rows * columns * len(level)].reshape(rows, columns, len(level), 4)
        first += rows * columns * len(level)
        np.testing.assert_allclose(
            own[:, :, 0, 0] * side, np.tile((np.arange(columns) + 0.5) * step, (rows, 1)), rtol=1e-6
        )
        np.testing.assert_allclose(own[:, 0, 0, 1] * side, (np.arange(rows) + 0.5) * step, rtol=1e-6)
    assert ("steps" in decoder["anchors"]) is (side == 100)
    # A checkpoint of before says nothing of steps, and means what it meant.
    before = ssdlite.decoder({name: value for name, value in chosen.items() if name != "steps"}, (side, side))
    assert "steps" not in before["anchors"]
    assert (before["anchors"]["sha256"] == decoder["anchors"]["sha256"]) is (side == 96)


def test_large_images_are_looked_at_more_often() -> None:
    def epochs(side: int, *, pretrained: bool = True) -> object:
        situation = Situation(292, 3, pretrained=pretrained, on_gpu=False, pixels=side * side)
        return TASK.defaults(situation)["epochs"][0]

    assert [epochs(side) for side in (224, 320, 400, 640)] == [22, 22, 43, 45]
    assert epochs(320, pretrained=False) == 67


def test_boxes_count_alike_unless_photos_are_drawn_otherwise() -> None:
    task, situation = TASK, Situation(300, 3, pretrained=True, on_gpu=False)
    chosen = plan(TrainOptions("full"), situation, task.defaults(situation))
    assert chosen.options.imbalance == "none"
    assert any(reason.startswith("imbalance none") for reason in chosen.reasons)
    assert plan(TrainOptions("full"), situation).options.imbalance == "weights"
    for asked in ("weights", "focal"):
        with pytest.raises(UsageError, match=f"--imbalance {asked} says nothing in detection"):
            task.check_options(TrainOptions(imbalance=asked))
