"""A gate stops what goes wrong with boxes: every fault is planted into a network that is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.models.heads.ssdlite import decoder as ssdlite_decoder
from edgetl.verify.gate.limits import Gate, judge
from edgetl.verify.measure.outputs import collect_outputs
from edgetl.verify.report import VariantReport
from edgetl_export.progress import silent
from edgetl_runtime import FakeSession, fake_detector
from edgetl_runtime.tasks.boxes import decoded
from edgetl_runtime.tasks.detection import anchors_of

Images: TypeAlias = npt.NDArray[np.uint8]
Tensors: TypeAlias = dict[str, npt.NDArray[np.float32]]
LABELS = ("red", "green", "blue")
SIDE = 320
SMALL = 0.25
"""Objects below this share of the side are the first level's."""
DECODER = ssdlite_decoder({"strides": [32], "shapes": [[[0.15, 0.15]], [[0.4, 0.4]]]}, (SIDE, SIDE))
ANCHORS, VARIANCES = anchors_of(DECODER), np.array(DECODER["variances"], np.float32)
ON_FIRST = np.arange(len(ANCHORS)) < 100


def manifest_of() -> Any:
    manifest = fake_detector(LABELS, lambda image: [], size=(SIDE, SIDE)).manifest
    outputs = tuple(dataclasses.replace(spec, shape=(1, len(ANCHORS), spec.shape[2])) for spec in manifest.outputs)
    return dataclasses.replace(manifest, output=outputs[0], outputs=outputs, decoder=DECODER)


MANIFEST = manifest_of()


def scenes(n: int = 12) -> list[Sample]:
    """A small and a large object a photo, bright or less so; the colour is the label."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(n):
        photo, rows = np.full((240, 480, 3), 20, np.uint8), []
        for half, share in enumerate((rng.uniform(0.12, 0.2), rng.uniform(0.35, 0.48))):
            wide, high = int(480 * share), int(240 * share * rng.uniform(0.8, 1.2))
            left, top = half * 240 + int(rng.uniform(0, 235 - wide)), int(rng.uniform(0, 235 - high))
            label = (index + half) % 3
            photo[top : top + high, left : left + wide, label] = 150 + 5 * (index % 10)
            rows.append((left, top, left + wide, top + high, label, 0))
        samples.append(Sample(photo, 0, f"scene-{index}", np.array(rows, np.float64), (480, 240)))
    return samples


def network(images: Images) -> Tensors:
    """The box around what is bright in a channel, told by the anchors inside it: the brighter, the surer."""
    boxes = np.zeros((len(images), len(ANCHORS), 4), np.float32)
    logits = np.zeros((len(images), len(ANCHORS), 4), np.float32)
    logits[:, :, 0] = 4.0
    for image, deltas, row in zip(images, boxes, logits, strict=True):
        for label in range(3):
            for half in (0, 1):
                part = image[:, half * SIDE // 2 : (half + 1) * SIDE // 2, label]
                if part.max() > 85:
                    _tell(part, half * SIDE // 2, label, deltas, row)
    return {"boxes": boxes, "logits": logits}


def _tell(part: Images, offset: int, label: int, deltas: Any, logits: Any) -> None:
    y, x = np.nonzero(part > 85)
    corners = np.array([x.min() + offset, y.min(), x.max() + 1 + offset, y.max() + 1], np.float32) / SIDE
    centre, sides = (corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]
    own = ON_FIRST if max(sides) < SMALL else ~ON_FIRST
    inside = own & (np.abs(ANCHORS[:, :2] - centre) < np.maximum(sides / 2, 0.06)).all(axis=1)
    deltas[inside] = deltas_of(centre, sides)[inside]
    logits[inside, label + 1] = 4.0 + (float(part.max()) - 145) / 60


def deltas_of(centres: npt.NDArray[np.float32], sides: npt.NDArray[np.float32], scale: float = 1.0) -> Any:
    """What decodes to these boxes by anchors that are `scale` times as large."""
    anchors = ANCHORS * [1, 1, scale, scale]
    moved = np.concatenate(((centres - anchors[:, :2]) / anchors[:, 2:], np.log(sides / anchors[:, 2:])), axis=-1)
    return (moved / VARIANCES).astype(np.float32)


def shares_of(boxes: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Centres and sides of the boxes (n, A, 4) that deltas stand for."""
    corners = np.stack([decoded(one, ANCHORS, VARIANCES.tolist()) for one in boxes])
    return (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]


def rounded(images: Images) -> Tensors:
    """As 8 bits have it, each output on a scale of its own."""
    return {
        name: (np.rint(values * (127 / np.abs(values).max())) * (np.abs(values).max() / 127)).astype(np.float32)
        for name, values in network(images).items()
    }


def one_scale(images: Images) -> Tensors:
    """Boxes in pixels and scores as one tensor of 8 bits."""
    found = network(images)
    centres, sides = shares_of(found["boxes"])
    step = SIDE / 255
    powers = np.exp(found["logits"])
    scores = np.rint(powers / powers.sum(2, keepdims=True) / step) * step
    centres, sides = (np.rint(values * SIDE / step) * step / SIDE for values in (centres, sides))
    boxes = np.stack([deltas_of(*pair) for pair in zip(centres, np.maximum(sides, 1e-3), strict=True)])
    return {"boxes": boxes, "logits": np.log(np.clip(scores, 1e-6, 1)).astype(np.float32)}


def other_anchors(images: Images) -> Tensors:
    found = network(images)
    pairs = zip(*shares_of(found["boxes"]), strict=True)
    return {**found, "boxes": np.stack([deltas_of(*pair, scale=1.25) for pair in pairs])}


def shifted_labels(images: Images) -> Tensors:
    found = network(images)
    return {**found, "logits": np.concatenate((found["logits"][..., :1], np.roll(found["logits"][..., 1:], 1, 2)), 2)}


def bgr(images: Images) -> Tensors:
    return network(images[..., ::-1])


def swapped(images: Images) -> Tensors:
    found = network(images)
    return {**found, "boxes": found["boxes"][..., [1, 0, 3, 2]]}


def without_a_level(images: Images) -> Tensors:
    found = network(images)
    for values in found.values():
        values[:, ON_FIRST] = 0.0
    return found


def not_finite(images: Images) -> Tensors:
    found = network(images)
    found["boxes"][:, 3] = np.nan
    return found


def verdict(fault: Callable[[Images], Tensors], precision: str, gate: Gate | None = None) -> Mapping[str, Any]:
    """The checks that failed, by what they are about, of a variant that computes `fault`."""
    id_, samples = f"onnx.{precision}", scenes()
    session = FakeSession((MANIFEST.input,), MANIFEST.outputs, lambda feeds: fault(feeds["image"]))
    found = collect_outputs({id_: lambda: session}, Original(), samples, MANIFEST, threads=1, track=silent)
    assert not found.errors
    report = VariantReport(
        id_, "onnx", precision, parity=found.parity[id_], quality=found.variants[id_].compute(found.original)
    )
    assert found.original.compute().value > 0.75
    return {check.what: check.value for check in judge([report], gate or Gate(), task="detection").failed}


class Original:
    """`network`, as verification asks an original that gives several outputs."""

    features = ()

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        return network(images)["boxes"]

    def outputs(self, images: Images) -> Tensors:
        return network(images)


def test_what_is_right_passes() -> None:
    assert not verdict(network, "fp32")
    assert not verdict(rounded, "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("fault", [one_scale, other_anchors, shifted_labels, bgr, swapped, without_a_level, not_finite])
def test_a_fault_fails_the_gate_that_stands_without_one(fault: Callable[[Images], Tensors], precision: str) -> None:
    failed = verdict(fault, precision)
    assert "agreement" in failed
    assert failed["agreement"] < 0.85


def test_a_lost_label_is_named_by_its_quantity() -> None:
    def without_red(images: Images) -> Tensors:
        found = network(images)
        found["logits"][..., 1] = 0.0
        return found

    failed = verdict(without_red, "int8", Gate(precision={"int8": {"class_map_delta": -0.05, "map50": 0.9}}))
    assert failed["class_map_delta"] < -0.5
    assert failed["map50"] < 0.7
