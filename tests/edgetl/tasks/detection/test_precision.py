"""mAP by our own code against pycocotools, on random photos: crowds, ties, sizes, labels without objects."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.tasks.detection.matching import AREAS, match_photo
from edgetl.tasks.detection.precision import Judged, mean_of_known
from edgetl_runtime.tasks.boxes import Found

coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

LABELS = 4


def _photo(rng: np.random.Generator, *, crowds: bool, ties: bool = True) -> tuple[npt.NDArray[np.float64], Found]:
    n = int(rng.integers(0, 12))
    corners = rng.uniform(0, 300, (n, 2))
    sides = np.exp(rng.uniform(np.log(5), np.log(250), (n, 2)))
    labels = rng.integers(0, LABELS - 1, n).astype(np.float64)  # the last label has no object
    flags = (rng.random(n) < 0.15).astype(np.float64) * crowds
    target = np.column_stack([corners, corners + sides, labels, flags])
    m = int(rng.integers(0, 40))
    copied = rng.integers(0, max(n, 1), m)
    boxes = np.zeros((m, 4), np.float32)
    kinds = rng.integers(0, LABELS, m)
    for row in range(m):
        if n and rng.random() < 0.7:
            boxes[row] = target[copied[row], :4] + rng.normal(0, 6, 4)
            kinds[row] = int(labels[copied[row]]) if rng.random() < 0.8 else kinds[row]
        else:
            corner = rng.uniform(0, 300, 2)
            boxes[row] = [*corner, *(corner + rng.uniform(5, 200, 2))]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = rng.random(m).astype(np.float32)
    scores = np.round(scores, 1) if ties else scores
    order = np.argsort(-scores, kind="stable")
    return target, Found(boxes[order], scores[order], kinds[order].astype(np.int64))


def _official(photos: list[tuple[npt.NDArray[np.float64], Found]]) -> Any:
    truth: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": label + 1, "name": str(label)} for label in range(LABELS)]
    results = []
    for index, (target, found) in enumerate(photos):
        truth["images"].append({"id": index + 1, "width": 600, "height": 600, "file_name": f"{index}.jpg"})
        for left, top, right, bottom, label, flag in target.tolist():
            wide, high = right - left, bottom - top
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": index + 1, "category_id": int(label) + 1}
                | {"bbox": [left, top, wide, high], "area": wide * high, "iscrowd": int(flag)}
            )
        for box, score, label in zip(found.boxes.astype(np.float64).tolist(), found.scores, found.labels, strict=True):
            left, top, right, bottom = box
            results.append({"image_id": index + 1, "category_id": int(label) + 1, "score": float(score)}
                           | {"bbox": [left, top, right - left, bottom - top]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO()
        dataset.dataset = truth
        dataset.createIndex()
        judge = cocoeval.COCOeval(dataset, dataset.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    photos = [_photo(rng, crowds=seed % 2 == 1) for _ in range(25)]
    judge = _official(photos)
    judged = Judged([match_photo(found, target, LABELS) for target, found in photos], LABELS)
    precisions = judged.precisions()
    assert mean_of_known(precisions) == pytest.approx(judge.stats[0], abs=1e-6)
    assert mean_of_known(precisions[:, 0]) == pytest.approx(judge.stats[1], abs=1e-6)
    assert mean_of_known(precisions[:, 5]) == pytest.approx(judge.stats[2], abs=1e-6)
    for place, area in enumerate(list(AREAS)[1:]):
        assert mean_of_known(judged.precisions(area)) == pytest.approx(judge.stats[3 + place], abs=1e-6), area
    official = judge.eval["precision"][:, :, :, 0, 2]
    for label in range(LABELS - 1):
        assert precisions[label] == pytest.approx(official[:, :, label].mean(axis=1), abs=1e-6)
    assert np.isnan(precisions[LABELS - 1]).all()


def test_counts_are_copies_of_photos() -> None:
    """Photo i counted three times is the photo there three times."""
    rng = np.random.default_rng(3)
    matched = [
        match_photo(found, target, LABELS)
        for target, found in (_photo(rng, crowds=False, ties=False) for _ in range(6))
    ]
    counts = np.array([3, 0, 1, 2, 1, 1])
    copies = [each for each, n in zip(matched, counts, strict=True) for _ in range(n)]
    assert Judged(matched, LABELS).mean(counts) == pytest.approx(Judged(copies, LABELS).mean(), abs=1e-9)


def test_found_missed_and_invented() -> None:
    target = np.array([[0, 0, 10, 10, 0, 0], [50, 50, 60, 60, 0, 0], [80, 80, 90, 90, 0, 2]], np.float64)
    boxes = np.array([[0, 0, 10, 9], [20, 20, 30, 30], [80, 80, 90, 90], [50, 50, 60, 60]], np.float32)
    found = Found(boxes, np.array([0.9, 0.8, 0.7, 0.1], np.float32), np.zeros(4, np.int64))
    hits, missed, invented = Judged([match_photo(found, target, 1)], 1).found_and_not(0.3)
    assert (hits.tolist(), missed.tolist(), invented.tolist()) == ([1], [1], [1])
