from __future__ import annotations

from collections import Counter

import pytest
import torch

from edgetl.tasks.classification.losses import class_weights
from edgetl.training.class_balance import balanced_order

LABELS = torch.tensor([0] * 40 + [1] * 2 + [2] * 13)


def test_class_weights_make_up_for_imbalance() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    weights = class_weights(labels, 2)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    assert weights[labels].mean() == pytest.approx(1.0)


def test_a_label_without_an_image_weighs_nothing() -> None:
    assert class_weights(torch.tensor([0, 0, 2]), 3).tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_every_label_is_shown_alike() -> None:
    order = balanced_order(LABELS, 0, 1)
    assert len(order) == 55
    assert sorted(Counter(LABELS[order].tolist()).values()) == [18, 18, 19]
    met = Counter(order)
    assert max(met[i] for i in range(40)) == 1  # the frequent: some of them, each once
    assert {met[40], met[41]} <= {9, 10}  # the rare: over and over, in turns
    assert {met[i] for i in range(42, 55)} == {1, 2}


def test_an_order_is_shuffled_and_of_the_seed_and_the_epoch() -> None:
    order = balanced_order(LABELS, 0, 1)
    assert order == balanced_order(LABELS, 0, 1)
    assert order != balanced_order(LABELS, 0, 2)
    assert order != balanced_order(LABELS, 1, 1)
    first = LABELS[order[:27]]
    assert 4 < int((first == 1).sum()) < 14  # no label keeps together
    seen = {index for epoch in range(12) for index in balanced_order(LABELS, 0, epoch)}
    assert seen == set(range(55))


def test_balance_is_kept_where_a_label_or_all_of_them_are_missing() -> None:
    assert balanced_order(torch.tensor([], dtype=torch.int64), 0, 0) == []
    labels = torch.tensor([3, 3, 3, 0])
    assert Counter(labels[balanced_order(labels, 0, 0)].tolist()) == {3: 2, 0: 2}


def test_more_labels_than_turns_are_drawn_in_turns() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2])
    most = {Counter(labels[balanced_order(labels, 0, epoch)].tolist()).most_common()[-1][0] for epoch in range(20)}
    assert most == {0, 1, 2}  # which label is shown once less is drawn too
