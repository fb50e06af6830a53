from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgetl.data.dataset import Sample
from edgetl.reports.original_views import view_original
from edgetl.reports.training_plots import draw_training, training_in_words
from edgetl.tasks.classification.original import confusion_of, most_confused
from edgetl.tasks.classification.results import MOST_WORST, LabelScores, Original
from edgetl.verify.report import Report

LABELS = ["a", "b", "c", "d"]


def samples(n: int) -> list[Sample]:
    return [Sample(np.zeros((2, 2, 3), np.uint8), 0, f"{i}.jpg") for i in range(n)]


def rows(*decisions: int, margin: float = 5.0) -> np.ndarray:
    """One row of logits for each decision, `margin` above the others."""
    return (margin * np.eye(len(LABELS)))[list(decisions)].astype(np.float32)


def test_labels_and_confusions_are_counted() -> None:
    truth = np.array([0, 0, 0, 1, 1])
    found = confusion_of(samples(5), truth, rows(0, 0, 1, 1, 3), LABELS)
    assert found.per_label == {
        "a": LabelScores(3, 2 / 3, 2, 1.0),
        "b": LabelScores(2, 0.5, 2, 0.5),
        "d": LabelScores(0, None, 1, 0.0),
    }
    assert found.confusion == {"a": {"a": 2, "b": 1}, "b": {"b": 1, "d": 1}}


def test_the_loss_is_the_cross_entropy_and_the_worst_come_first() -> None:
    n = MOST_WORST + 3
    logits = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    truth = np.arange(n) % 4
    torch = pytest.importorskip("torch")
    losses = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth), reduction="none").numpy()
    asked: list[str] = []

    def thumbnail(sample: Sample) -> str:
        asked.append(sample.name)
        return f"data:{sample.name}"

    found = confusion_of(samples(n), truth, logits, LABELS, thumbnail=thumbnail)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-6)
    expected = [f"{i}.jpg" for i in np.argsort(-losses)[:MOST_WORST]]
    assert [worst.image for worst in found.worst] == expected == asked
    first = found.worst[0]
    assert first.loss == pytest.approx(float(losses.max()), rel=1e-6)
    assert first.truth_probability == pytest.approx(math.exp(-first.loss))
    assert first.probability >= first.truth_probability
    assert first.thumbnail == f"data:{first.image}"


def test_the_most_confused_pairs_are_of_different_labels() -> None:
    original = Original(0.1, confusion={"a": {"a": 90, "b": 2, "c": 7}, "b": {"a": 3}})
    assert most_confused(original, 2) == [("a", "c", 7), ("b", "a", 3)]


def test_the_matrix_is_for_few_labels_and_the_pairs_for_any(report: Report) -> None:
    small = confusion_of(samples(4), np.array([0, 0, 1, 1]), rows(0, 1, 1, 3), LABELS)
    view = view_original(replace(report, original=small))
    assert view is not None
    assert [(row.label, [cell.n for cell in row.cells]) for row in view.matrix] == [
        ("a", [1, 1, 0]), ("b", [0, 1, 1]), ("d", [0, 0, 0]),
    ]  # fmt: skip
    assert [cell.kind for cell in view.matrix[1].cells] == ["wrong", "right", "wrong"]
    assert [row.label for row in view.labels] == ["a", "b", "d"], "the lowest recall first, no images last"
    many = [f"label {i}" for i in range(50)]
    logits = np.eye(50, dtype=np.float32)[[*range(1, 50), 1]]
    view = view_original(replace(report, original=confusion_of(samples(50), np.arange(50), logits, many)))
    assert view is not None
    assert (view.matrix, view.columns, len(view.labels), view.left_out) == ((), (), 40, 10)
    assert view.pairs[0] == "label 0 taken for label 1: 1 of 1"
    assert view_original(report) is None


def test_training_is_drawn_with_its_phases_and_its_learning_rate(report: Report) -> None:
    pytest.importorskip("matplotlib")
    history = tuple(
        {"epoch": i, "train_loss": 1 / i, "val_loss": 1.5 / i, "val_top1": 1 - 0.5 / i, "seconds": 2.0 * i}
        | (
            {"phase": "head", "lr": None}
            if i < 3
            else {"phase": "network", "trained_stages": 5 - i or None, "lr": 0.1 / i}
        )
        | {"spent": {"forward": 2.0, "waiting": 1.0 / i}}
        for i in range(1, 6)
    )
    loss, accuracy, rate, time = draw_training(replace(report, history=history))
    assert "training from 1 to 0.2; validation from 1.5 to 0.3" in loss.text
    assert "validation from 50 to 90" in accuracy.text
    assert "of the head from 0.03333 to 0.02" in rate.text
    assert "forward from 2 to 2; waiting from 1 to 0.2" in time.text
    for plot in (loss, accuracy, rate):
        assert all(f">{name}<" in plot.svg for name in ("head", "last 2", "last 1", "all layers")), plot.title
    assert (
        training_in_words(replace(report, history=history))
        == "5 epochs; kept is epoch 5 with 90.0 %. 10 s of training."
    )
    assert [plot.title for plot in draw_training(report)] == ["Loss by epoch", "Quality by epoch"]
    assert draw_training(replace(report, history=())) == []
