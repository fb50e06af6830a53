from __future__ import annotations

import numpy as np
import pytest

from edgetl.data.dataset import Sample
from edgetl.tasks.classification.changed_predictions import changed_predictions, worst_labels
from edgetl.tasks.classification.results import MOST_CHANGED, LabelChanges

LABELS = ["a", "b", "c"]


def samples(n: int) -> list[Sample]:
    return [Sample(np.zeros((2, 2, 3), np.uint8), 0, f"{i}.jpg") for i in range(n)]


def rows(*decisions: int, margin: float = 5.0) -> np.ndarray:
    """One row of logits for each decision, `margin` above the others."""
    return (margin * np.eye(len(LABELS)))[list(decisions)].astype(np.float32)


def test_flips_are_counted_by_what_they_do() -> None:
    truth = np.array([0, 0, 1, 1, 2])
    damage = changed_predictions(samples(5), truth, rows(0, 0, 0, 1, 0), rows(0, 1, 1, 1, 1), LABELS)
    assert (damage.flipped, damage.broken, damage.repaired) == (3, 1, 1)
    assert [(flip.image, flip.truth, flip.original, flip.variant) for flip in damage.flips] == [
        ("1.jpg", "a", "a", "b"),
        ("2.jpg", "b", "a", "b"),
        ("4.jpg", "c", "a", "b"),
    ]
    assert damage.per_class["a"] == LabelChanges(2, 1.0, 0.5, 1.0)
    assert damage.per_class["b"] == LabelChanges(2, 0.5, 1.0, 1.0)
    assert damage.per_class["c"] == LabelChanges(1, 0.0, 0.0, 1.0)


def test_p_values_are_of_the_exact_mcnemar_test() -> None:
    """Eight broken, none repaired: 2 / 2^8."""
    n = 8
    damage = changed_predictions(samples(n), np.zeros(n, np.int64), rows(*[0] * n), rows(*[1] * n), LABELS)
    assert damage.per_class["a"] == LabelChanges(n, 1.0, 0.0, pytest.approx(2 / 2**n))


def test_the_surest_flips_come_first_and_are_kept() -> None:
    n = MOST_CHANGED + 6
    margins = np.random.default_rng(0).permutation(np.arange(n)) / n
    reference = np.zeros((n, 3), np.float32)
    reference[:, 0] = margins
    damage = changed_predictions(samples(n), np.zeros(n, np.int64), reference, rows(*[1] * n), LABELS)
    assert damage.flipped == n
    assert [flip.image for flip in damage.flips] == [f"{i}.jpg" for i in np.argsort(-margins)[:MOST_CHANGED]]
    share = np.exp(margins.max()) / (np.exp(margins.max()) + 2)
    assert damage.flips[0].original_margin == pytest.approx(share - (1 - share) / 2)


def test_logits_that_are_not_finite_decide_nothing() -> None:
    broken = rows(0, 1)
    broken[0, 2] = np.nan
    damage = changed_predictions(samples(2), np.array([0, 1]), rows(0, 1), broken, LABELS)
    assert (damage.flipped, damage.broken) == (1, 1)
    assert damage.flips[0].variant == ""


def test_thumbnails_are_asked_for_what_is_kept_only() -> None:
    asked = []

    def thumbnail(sample: Sample) -> str | None:
        asked.append(sample.name)
        return f"data:,{sample.name}"

    damage = changed_predictions(
        samples(3), np.array([0, 0, 0]), rows(0, 0, 0), rows(0, 1, 0), LABELS, thumbnail=thumbnail
    )
    assert asked == ["1.jpg"]
    assert damage.flips[0].thumbnail == "data:,1.jpg"


def test_the_worst_classes_come_first() -> None:
    per_class = {
        "kept": LabelChanges(50, 0.9, 0.9, 1.0),
        "small": LabelChanges(2, 1.0, 0.0, 0.5),
        "large": LabelChanges(50, 0.9, 0.8, 0.06),
        "better": LabelChanges(50, 0.8, 0.9, 0.06),
    }
    assert [label for label, _ in worst_labels(per_class, 9)] == ["large", "small", "better"]
    assert [label for label, _ in worst_labels(per_class, 1)] == ["large"]


def test_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="2 labels, 3 samples"):
        changed_predictions(samples(3), np.array([0, 1]), rows(0, 1, 2), rows(0, 1, 2), LABELS)
