"""A gate stops what goes wrong with masks: every fault is planted into a network that is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.tasks import task_of
from edgetl.tasks.segmentation.mask_files import IGNORED, fill_outline
from edgetl.verify.gate.limits import Gate, judge
from edgetl.verify.measure.outputs import collect_outputs
from edgetl.verify.report import VariantReport
from edgetl_export.progress import silent
from edgetl_runtime import FakeSession, Manifest, TensorSpec, fake_segmenter, preprocess
from edgetl_runtime.interpolation import interpolated

Maps: TypeAlias = npt.NDArray[np.float32]
LABELS = ("background", "red", "green", "blue")
SIDE, STRIDE = 64, 4
GATE = Gate(precision={"int8": {"agreement": 0.99, "class_iou_delta": -0.05, "miou": 0.8}})


def manifest_of() -> Manifest:
    manifest = fake_segmenter(LABELS, lambda image: image[:, :, 0], size=(SIDE, SIDE)).manifest
    places = SIDE // STRIDE
    output = TensorSpec("logits", "float32", (1, places, places, len(LABELS)), layout="NHWC")
    decoder = {"size": [SIDE, SIDE]}
    return dataclasses.replace(manifest, output=output, outputs=(), decoder=decoder)


MANIFEST = manifest_of()


def scenes(n: int = 16) -> list[Sample]:
    """Shapes whose colour is their label, in photos of 96 x 80, with a border that does not count."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(n):
        mask = np.zeros((80, 96), np.uint8)
        for label in rng.permutation([1, 2, 3])[:2].tolist():
            centre, radius = rng.uniform(25, 60, 2), rng.uniform(12, 20)
            angles = rng.uniform(0, 6) + np.arange(5) * 2 * np.pi / 5
            corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            fill_outline(mask, corners.tolist(), label)
        photo = np.full((80, 96, 3), 40, np.uint8)
        for label in (1, 2, 3):
            photo[mask == label, label - 1] = 220
        mask[:6] = IGNORED
        samples.append(Sample(photo, 0, f"scene-{index}", mask))
    return samples


def network(images: npt.NDArray[np.uint8]) -> Maps:
    """(n, SIDE, SIDE, 3) to logits: the mean colour of every place, against a threshold."""
    n, places = len(images), SIDE // STRIDE
    means = images.reshape(n, places, STRIDE, places, STRIDE, 3).mean(axis=(2, 4)).astype(np.float32) / 64
    return np.concatenate([np.full((n, places, places, 1), 2.0, np.float32), means], axis=3)


def verdict(fault: Callable[[npt.NDArray[np.uint8]], Maps], precision: str, gate: Gate = GATE) -> Mapping[str, Any]:
    """The checks that failed, by what they are about, of a variant that computes `fault`."""
    id_ = f"onnx.{precision}"
    inputs, outputs = (MANIFEST.input,), (MANIFEST.output,)
    session = FakeSession(inputs, outputs, lambda feeds: {"logits": fault(feeds["image"])})
    samples = scenes()
    found = collect_outputs({id_: lambda: session}, network, samples, MANIFEST, threads=1, track=silent)
    assert not found.errors
    report = VariantReport(
        id_, "onnx", precision, parity=found.parity[id_], quality=found.variants[id_].compute(found.original)
    )
    assert found.original.compute().value > 0.8
    return {check.what: check.value for check in judge([report], gate, task="segmentation").failed}


def rounded(images: npt.NDArray[np.uint8]) -> Maps:
    """As 8 bits have it."""
    return np.rint(network(images) * 24) / np.float32(24)


def shifted_labels(images: npt.NDArray[np.uint8]) -> Maps:
    return np.roll(network(images), 1, axis=3)


def upside_down(images: npt.NDArray[np.uint8]) -> Maps:
    return network(images)[:, ::-1]


def half_a_pixel(images: npt.NDArray[np.uint8]) -> Maps:
    """As upsampling with ``align_corners`` moves what is far from the middle."""
    places = SIDE // STRIDE
    at = np.arange(places) * (places - 1) / places
    return np.stack([interpolated(one, at, at) for one in network(images)])


def without_a_channel(images: npt.NDArray[np.uint8]) -> Maps:
    logits = network(images)
    logits[..., 2] = 0.0
    return logits


def bgr(images: npt.NDArray[np.uint8]) -> Maps:
    return network(images[..., ::-1])


def transposed(images: npt.NDArray[np.uint8]) -> Maps:
    return network(images).swapaxes(1, 2)


def not_finite(images: npt.NDArray[np.uint8]) -> Maps:
    logits = network(images)
    logits[:, 3, 3, 1] = np.inf
    return logits


def test_what_is_right_passes() -> None:
    assert not verdict(network, "fp32")
    assert not verdict(rounded, "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "fault", [shifted_labels, upside_down, half_a_pixel, without_a_channel, bgr, transposed, not_finite]
)
def test_a_fault_fails_the_gate(fault: Callable[[npt.NDArray[np.uint8]], Maps], precision: str) -> None:
    failed = verdict(fault, precision)
    assert "agreement" in failed
    assert failed["agreement"] < 0.99


def test_a_lost_label_is_named_by_its_quantity() -> None:
    assert verdict(without_a_channel, "int8")["class_iou_delta"] < -0.8
    limits = Gate(precision={"int8": {"class_iou_delta": -0.05}})
    assert {"class_iou_delta", "delta"} <= set(verdict(without_a_channel, "int8", limits))


def details_of(change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]) -> list[str]:
    """The faults that are found where `change` was done to the masks of the data set."""
    samples = [dataclasses.replace(sample, target=change(np.asarray(sample.target))) for sample in scenes()]
    metric = task_of("segmentation").metric(MANIFEST, len(samples))
    images = np.stack([preprocess(sample.source, MANIFEST.preprocess) for sample in samples])
    metric.update(samples, {"logits": network(images)})
    details = task_of("segmentation").details(metric, {}, samples, MANIFEST, lambda budget: lambda sample: None)
    return [fault.what for fault in details.faults]


def relabelled(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.where(mask == IGNORED, IGNORED, (mask + 1) % len(LABELS)).astype(np.uint8)


def test_masks_of_the_data_set_that_are_wrong_are_faults() -> None:
    assert details_of(lambda mask: mask) == []
    assert details_of(relabelled) == ["labels"]
    assert details_of(lambda mask: mask[::-1]) == ["masks"]
    assert details_of(lambda mask: mask[:, ::-1]) == ["masks"]


def test_counting_what_is_ignored_changes_the_quality() -> None:
    """The border is background to the network: had 255 been taken for a label, every photo would have it."""
    task, samples = task_of("segmentation"), scenes()
    images = np.stack([np.zeros((SIDE, SIDE, 3), np.uint8)] * len(samples))
    metric = task.metric(MANIFEST, len(samples))
    metric.update(samples, {"logits": network(images)})
    found = metric.compute()
    counted = sum(int(np.count_nonzero(np.asarray(sample.target) != IGNORED)) for sample in samples)
    right = sum(int(np.count_nonzero(np.asarray(sample.target) == 0)) for sample in samples)
    assert found.parts["pixel_accuracy"] == pytest.approx(right / counted)
    assert set(found.per_label) == set(LABELS)
