"""The metric of a detector, and that planted faults are seen by what a gate may limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.tasks.detection import TASK
from edgetl.tasks.detection.demo import SHAPES, demo_shapes
from edgetl.tasks.detection.metric import BoxMetric
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl_runtime import fake_detector
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.tasks.detection import agreement

Outputs = dict[str, npt.NDArray[np.float32]]


def perfect(samples: tuple[Sample, ...]) -> tuple[Manifest, Outputs]:
    """Outputs that find every object of the samples, each at its own score."""
    rng = np.random.default_rng(0)
    manifest, boxes, logits = None, [], []
    for sample in samples:
        assert sample.target is not None
        objects = [
            (SHAPES[int(row[4])], float(rng.uniform(0.6, 0.95)), tuple(row[:4].tolist())) for row in sample.target
        ]
        with fake_detector(SHAPES, lambda _, objects=objects: objects, size=(128, 128)) as detector:  # type: ignore[misc]
            given = detector.run({"image": np.asarray(sample.source)[np.newaxis]})
            manifest = detector.manifest
        boxes.append(given["boxes"])
        logits.append(given["logits"])
    assert manifest is not None
    return manifest, {"boxes": np.concatenate(boxes), "logits": np.concatenate(logits)}


SAMPLES = demo_shapes(0).val[:30]
MANIFEST, OUTPUTS = perfect(SAMPLES)


def judged(outputs: Outputs) -> BoxMetric:
    metric = TASK.metric(MANIFEST, len(SAMPLES))
    for start in range(0, len(SAMPLES), 7):
        part = slice(start, start + 7)
        metric.update(SAMPLES[part], {name: values[part] for name, values in outputs.items()})
    return metric


ORIGINAL = judged(OUTPUTS)


def test_perfect_outputs() -> None:
    quality = ORIGINAL.compute()
    assert quality.value == pytest.approx(1.0)
    assert quality.parts["map50"] == pytest.approx(1.0)
    assert quality.parts["missed"] == quality.parts["invented"] == 0
    assert quality.per_label == pytest.approx(dict.fromkeys(SHAPES, 1.0))
    same = judged(OUTPUTS).compute(ORIGINAL)
    assert (same.delta, same.delta_ci95, same.parts["class_map_delta"]) == (0.0, (0.0, 0.0), 0.0)


def _relabelled(outputs: Outputs) -> Outputs:
    return {
        **outputs,
        "logits": np.concatenate((outputs["logits"][..., :1], np.roll(outputs["logits"][..., 1:], 1, 2)), 2),
    }


def _swapped(outputs: Outputs) -> Outputs:
    return {**outputs, "boxes": outputs["boxes"][..., [1, 0, 3, 2]]}


def _rounded_together(outputs: Outputs) -> Outputs:
    """Boxes and logits at one scale of 8 bits."""
    scale = max(float(np.abs(values).max()) for values in outputs.values()) / 127
    return {name: (np.rint(values / scale) * scale).astype(np.float32) for name, values in outputs.items()}


def _emptied(outputs: Outputs) -> Outputs:
    return {
        name: np.where(np.arange(values.shape[1])[:, np.newaxis] < 1, 0, values) for name, values in outputs.items()
    }


def _larger(outputs: Outputs) -> Outputs:
    """As if the anchors were of another size."""
    return {**outputs, "boxes": outputs["boxes"] + np.array([0, 0, 1, 1], np.float32)}


FAULTS = {
    "labels off by one": _relabelled,
    "x and y swapped": _swapped,
    "one scale": _rounded_together,
    "a level zeroed": _emptied,
    "other anchors": _larger,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault: str) -> None:
    broken = FAULTS[fault](OUTPUTS)
    quality = judged(broken).compute(ORIGINAL)
    assert quality.delta is not None
    assert quality.delta_ci95 is not None
    assert quality.delta < -0.05
    assert quality.delta_ci95[1] < 0
    assert quality.parts["class_map_delta"] < -0.05
    assert agreement(OUTPUTS, broken, MANIFEST.decoder).mean() < 0.9


def test_outputs_that_are_not_finite_find_nothing() -> None:
    broken = {name: values.copy() for name, values in OUTPUTS.items()}
    broken["boxes"][3, 0, 0] = np.nan
    objects = len(SAMPLES[3].target) if SAMPLES[3].target is not None else 0
    assert judged(broken).compute(ORIGINAL).parts["missed"] == objects


def test_quantities_of_a_gate() -> None:
    class Variant:
        """As much of a report as is read."""

        known_quality = judged(OUTPUTS).compute(ORIGINAL)

    report: Any = Variant()
    for name in ("map", "map50", "class_map_delta"):
        assert name in QUANTITIES
        assert QUANTITIES[name].read(report) is not None
    assert QUANTITIES["map"].interval_of(report) == Variant.known_quality.ci95


def test_views() -> None:
    variants = {"onnx.int8": judged(_larger(OUTPUTS)), "onnx.fp32": judged(OUTPUTS)}
    shown = TASK.details(ORIGINAL, variants, SAMPLES, MANIFEST, lambda _: lambda _: None)
    titles = [table.title for table in shown.report["tables"]]
    assert len(titles) == 3
    assert all(len(row) == len(table.headings) for table in shown.report["tables"] for row in table.rows)
    pictures = shown.report["pictures"]
    assert pictures[0].image.startswith("data:image/svg+xml;base64,")
    assert pictures[1].title == "Where onnx.int8 differs"
    assert pictures[1].image.startswith("data:image/jpeg;base64,")
    assert len(pictures) == 7


def test_an_original_that_finds_nothing_is_said() -> None:
    """No object, so none that a variant could differ in: all agree, whatever they are worth."""
    unsure = judged({**OUTPUTS, "logits": OUTPUTS["logits"] * np.float32(0.01)})
    assert not any(len(found.scores) for found in unsure.found)
    (note,) = TASK.details(unsure, {"onnx.int8": unsure}, SAMPLES, MANIFEST, lambda _: lambda _: None).notes
    assert "finds no object at a score of" in note
    assert not TASK.details(ORIGINAL, {}, SAMPLES, MANIFEST, lambda _: lambda _: None).notes


def test_truth_is_what_the_outputs_say() -> None:
    _, target = TASK.truth({name: values[0] for name, values in OUTPUTS.items()}, MANIFEST)
    assert target is not None
    expected = SAMPLES[0].target
    assert expected is not None
    assert sorted(target[:, 4]) == sorted(expected[:, 4])
    assert np.sort(target[:, 0]) == pytest.approx(np.sort(expected[:, 0]), abs=0.01)
