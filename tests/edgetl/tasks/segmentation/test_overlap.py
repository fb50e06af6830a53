"""IoU by hand and from confusion matrices, and what a metric keeps."""

from __future__ import annotations

import base64
import io
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from edgetl.data.dataset import Sample
from edgetl.tasks.segmentation import mask_files
from edgetl.tasks.segmentation.differences import differences_of, near_boundary
from edgetl.tasks.segmentation.losses import MaskObjective, label_weights
from edgetl.tasks.segmentation.mask_files import IGNORED, MaskOutlines
from edgetl.tasks.segmentation.metric import MaskMetric
from edgetl.tasks.segmentation.overlap import confusion_of, counts_of, iou_draws, ious, mean_iou, worst_label
from edgetl.tasks.segmentation.reading import sample_of
from edgetl.tasks.segmentation.shapes import SHAPES, demo_shapes
from edgetl.tasks.segmentation.views import pictures_of, tables_of
from edgetl.tasks.task import Targets
from edgetl_runtime import Preprocess, fake_segmenter

SPEC = Preprocess(0, (16, 24), mode="stretch")


def test_a_confusion_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
    found = np.array([[0, 1, 1], [0, 1, 255]], np.uint8)
    confusion = confusion_of(truth, found, 3)
    assert confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]  # what is ignored, or was not seen, does not count
    counts = counts_of(confusion)
    assert ious(counts)[:2].tolist() == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert np.isnan(ious(counts)[2])
    assert mean_iou(counts) == pytest.approx(1 / 3)


def test_many_pixels_go_in_parts() -> None:
    rng = np.random.default_rng(0)
    truth, found = (rng.integers(0, 5, (1100, 1000)).astype(np.uint8) for _ in range(2))
    expected = np.zeros((5, 5), np.int64)
    np.add.at(expected, (truth.reshape(-1), found.reshape(-1)), 1)
    assert np.array_equal(confusion_of(truth, found, 5), expected)


def samples_of(masks: npt.NDArray[np.uint8]) -> list[Sample]:
    return [Sample(np.zeros((*mask.shape, 3), np.uint8), 0, str(i), mask) for i, mask in enumerate(masks)]


def logits_of(masks: npt.NDArray[np.uint8], labels: int) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = np.eye(labels, dtype=np.float32)[np.minimum(masks, labels - 1)] * 4.0
    return logits


def scenes(n: int = 12, labels: int = 3) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    masks = np.zeros((n, 16, 24), np.uint8)
    for mask in masks:
        for label in range(1, labels):
            top, left = rng.integers(0, 9), rng.integers(0, 16)
            mask[top : top + 7, left : left + 8] = label
    return masks


def metric_of(masks: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32]) -> MaskMetric:
    metric = MaskMetric(("a", "b", "c"), SPEC, len(masks))
    for part in (slice(0, 5), slice(5, None)):
        metric.update(samples_of(masks)[part], {"logits": logits[part]})
    return metric


def test_a_perfect_model_and_one_that_loses_a_label() -> None:
    masks = scenes()
    perfect = metric_of(masks, logits_of(masks, 3))
    quality = perfect.compute()
    assert (quality.name, quality.n, quality.value, quality.ci95) == ("mIoU", 12, 1.0, (1.0, 1.0))
    assert quality.per_label == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert quality.parts == {"pixel_accuracy": 1.0}
    zeroed = logits_of(masks, 3)
    zeroed[..., 2] = 0.0
    worse = metric_of(masks, zeroed).compute(perfect)
    assert worse.per_label["c"] == 0.0
    assert worse.delta is not None
    assert worse.delta < -0.3
    assert worse.delta_ci95 is not None
    assert worse.delta_ci95[1] < -0.2
    assert worse.parts["class_iou_delta"] == -1.0


def test_small_changes_of_many_labels_are_no_loss() -> None:
    masks = scenes()
    noise = np.random.default_rng(2).normal(0, 1.2, (*masks.shape, 3)).astype(np.float32)
    original = metric_of(masks, logits_of(masks, 3) + noise)
    other = np.random.default_rng(3).normal(0, 1.2, noise.shape).astype(np.float32)
    quality = metric_of(masks, logits_of(masks, 3) + other).compute(original)
    assert quality.parts["class_iou_delta"] == 0.0
    assert quality.delta_ci95 is not None
    assert quality.delta_ci95[0] < 0.0 < quality.delta_ci95[1]


def test_logits_that_are_not_finite_are_wrong_everywhere() -> None:
    masks = scenes()
    logits = logits_of(masks, 3)
    logits[3, 0, 0, 0] = np.nan
    metric = metric_of(masks, logits)
    assert metric.counts[3, 0].sum() == 0
    assert metric.counts[3, 1].sum() == masks[3].size
    assert metric.compute().value < 0.99


def test_what_is_ignored_does_not_count() -> None:
    masks = scenes()
    logits = logits_of(masks, 3)
    masks[:, :4] = IGNORED
    logits[:, :4] = logits[:, :4, :, ::-1]
    assert metric_of(masks, logits).compute().value == 1.0


def test_ten_times_as_many_photos_take_hardly_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of masks of 256 x 256 pixels hardly anything is kept, theirs nor those of the photos."""
    monkeypatch.setattr(mask_files, "_KEPT_BYTES", 2**19)
    square = [(40.0, 40.0), (200.0, 40.0), (200.0, 200.0), (40.0, 200.0)]
    logits = logits_of(np.eye(32, dtype=np.uint8)[None], 3)

    def peak(n: int) -> int:
        samples = [
            sample_of(b"", MaskOutlines((256, 256), ((1, (square,)),), f"mask {index}"), str(index))
            for index in range(n)
        ]
        tracemalloc.start()
        try:
            metric = MaskMetric(("a", "b", "c"), Preprocess(0, (256, 256), mode="stretch"), n)
            for sample in samples:
                metric.update([sample], {"logits": logits})
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(200) < 1.2 * peak(20)
    assert 0 < mask_files._kept._bytes <= 2**19


def test_the_worst_label_is_named_when_it_is_no_chance() -> None:
    before = np.array([[90, 50], [100, 60], [95, 55]])
    after = np.array([[90, 20], [100, 60], [95, 30]])
    assert worst_label(before, after, np.full((50, 2), [0.0, -0.4]))[0] == 1
    assert worst_label(before, after, np.tile([[0.0, -0.4], [0.0, 0.1]], (25, 1))) == (None, 0.0)
    assert iou_draws(np.stack([before, after])).shape[1] == 2


def test_differences_at_boundaries_and_in_regions() -> None:
    masks = scenes(2)
    original = MaskMetric(("a", "b", "c"), SPEC, 2)
    original.update(samples_of(masks), {"logits": logits_of(masks, 3)})
    grown = masks.copy()
    grown[0][near_boundary(masks[0]) & (masks[0] == 0)] = 1
    variant = MaskMetric(("a", "b", "c"), SPEC, 2)
    variant.update(samples_of(masks), {"logits": logits_of(grown, 3)})
    found = differences_of(original, variant)
    assert found.at_boundary == 1.0
    assert found.by_photo[0] > 0.0 == found.by_photo[1]
    assert found.differ == pytest.approx(np.mean(grown != masks))
    flat = MaskMetric(("a", "b", "c"), SPEC, 2)
    flat.update(samples_of(masks), {"logits": logits_of(np.zeros_like(masks), 3)})
    assert differences_of(original, flat).at_boundary < 1.0


def test_what_is_taken_for_what_has_the_labels_that_photos_have() -> None:
    masks = np.where(scenes() == 1, 2, scenes())  # no pixel is b
    manifest = fake_segmenter(["a", "b", "c"], lambda image: np.zeros((1, 1), np.int64)).manifest
    by_label, _, taken = tables_of(metric_of(masks, logits_of(masks, 3)), {}, manifest)
    assert [row[0] for row in taken.rows] == ["a", "c"]
    assert taken.rows[1] == ("c", "0.00%", "0.00%", "100.00%")
    assert by_label.rows[1] == ("b", "0.0%", "-")


def test_pictures_leave_a_background_clear_and_no_other_label() -> None:
    masks = np.zeros((1, 16, 24), np.uint8)
    drawn = {}
    for first in ("background", "sky"):
        manifest = fake_segmenter([first, "b", "c"], lambda image: np.zeros((1, 1), np.int64), size=(16, 24)).manifest
        original = metric_of(masks, logits_of(masks, 3))
        (picture,) = pictures_of(original, {}, samples_of(masks), manifest, budget=10**6)
        image = Image.open(io.BytesIO(base64.b64decode(picture.image.partition(",")[2])))
        width = (image.width + 4) // 3  # photo, truth and original
        drawn[first] = [int(np.asarray(image)[:, left : left + width - 8].max()) for left in (0, width, 2 * width)]
    assert max(drawn["background"]) < 20  # a black photo
    assert drawn["sky"][0] < 20 < min(drawn["sky"][1:])


def test_the_objective_judges_as_the_metric_does() -> None:
    masks, noise = scenes(), np.random.default_rng(4).normal(0, 2.0, (12, 16, 24, 3)).astype(np.float32)
    logits = logits_of(masks, 3) + noise
    masks[:, 5] = IGNORED
    objective = MaskObjective(3)
    rows = [
        objective.judge({"logits": torch.from_numpy(logits[part])}, torch.from_numpy(masks[part]))
        for part in (slice(0, 7), slice(7, None))
    ]
    loss, quality = objective.judged(torch.cat(rows))
    assert quality == pytest.approx(metric_of(masks, logits).compute().value)
    each = objective({"logits": torch.from_numpy(logits)}, Targets(torch.from_numpy(masks)))
    assert each.shape == (12,)
    assert float(each.mean()) == pytest.approx(loss, rel=1e-5)


def test_rare_labels_count_more_and_the_mean_is_one() -> None:
    counts = torch.tensor([9000, 900, 90, 0, 1])
    weights = label_weights(counts)
    assert weights[3] == 0
    assert weights[0] < weights[1] < weights[2] <= weights[4]
    assert float(weights[4] / weights[0]) == pytest.approx(10.0)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)


def test_a_mask_without_a_label_has_no_loss_and_focus_lowers_it() -> None:
    logits = {"logits": torch.randn(2, 4, 4, 3)}
    ignored = torch.full((2, 8, 8), IGNORED, dtype=torch.uint8)
    assert MaskObjective(3, dice=True)(logits, Targets(ignored)).tolist() == [0.0, 0.0]
    masks = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    plain, focal = MaskObjective(3)(logits, Targets(masks)), MaskObjective(3, focal=True)(logits, Targets(masks))
    assert (focal < plain).all()
    same = MaskObjective(3, teacher_weight=1.0)(logits, Targets(masks, teacher=logits["logits"]))
    assert same.abs().max() < 1e-6


def test_dice_is_the_mean_over_labels_that_are_there() -> None:
    """4 pixels are ignored, 9 are `a` and 3 `b`, of which one is taken for `a`: 2 * 9 / (10 + 9), 2 * 2 / (2 + 3)."""
    truth = torch.zeros(1, 4, 4, dtype=torch.uint8)
    truth[0, 0], truth[0, 1, :3] = IGNORED, 1
    found = truth.where(truth != IGNORED, 1).long()
    found[0, 1, 0] = 0
    logits = {"logits": 60.0 * torch.nn.functional.one_hot(found, 3).float()}
    plain, dice = (MaskObjective(3, dice=dice)(logits, Targets(truth)) for dice in (False, True))
    assert float(dice - plain) == pytest.approx(1 - (18 / 19 + 4 / 5) / 2, abs=1e-5)


def test_the_demo_is_the_same_for_a_seed() -> None:
    first, again = demo_shapes(3), demo_shapes(3)
    assert first.fingerprint == again.fingerprint != demo_shapes(4).fingerprint
    assert [label.name for label in first.labels] == list(SHAPES)
    assert {int(value) for sample in first.train[:40] for value in np.unique(sample.target)} == {0, 1, 2, 3}
