"""Detection on the device: decoding, suppression, where boxes come back, what is refused. No engine."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import BundleError, Detections, Detector, EngineError, UsageError, fake_detector
from edgetl_runtime.tasks.boxes import CANDIDATES, NOTHING, Found, candidates, decoded, overlaps, suppressed
from edgetl_runtime.tasks.detection import agreement, check, decision, share_in_common
from edgetl_runtime.tasks.tiles import squares

LABELS = ["cell", "plate"]


def two_objects(image: npt.NDArray[np.uint8]) -> list[tuple[str, float, tuple[float, float, float, float]]]:
    return [("cell", 0.9, (32, 64, 160, 128)), ("plate", 0.5, (10, 10, 20, 20)), ("cell", 0.4, (33, 64, 160, 128))]


def plain_candidates(logits: npt.NDArray[np.float32], score: float, classes: list[int] | None) -> list[tuple[int, int]]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    pairs = itertools.product(range(len(logits)), range(logits.shape[1] - 1))
    ranked = sorted((-shares[a, c + 1], a, c) for a, c in pairs if classes is None or c in classes)
    return [(a, c) for minus, a, c in ranked if -minus >= score][:CANDIDATES]


@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("score", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("classes", [None, [1, 3]])
def test_candidates_are_those_of_a_plain_computation(spread: float, score: float, classes: list[int] | None) -> None:
    logits = np.random.default_rng(0).normal(0, spread, (300, 6)).astype(np.float32)
    anchors, labels, scores = candidates(logits, score, classes)
    expected = plain_candidates(logits, score, classes)
    assert sorted(zip(anchors.tolist(), labels.tolist(), strict=True)) == sorted(expected)
    assert (np.diff(scores) <= 0).all()
    assert not len(scores) or scores.max() <= 1.0


def test_ties_go_by_place() -> None:
    """Also where there are more candidates than are looked at."""
    anchors, labels, _ = candidates(np.zeros((500, 2), np.float32), 0.3)
    assert anchors.tolist() == list(range(CANDIDATES))
    assert not labels.any()


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_greedy_and_by_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.random((300, 2)).astype(np.float32)
    found = Found(
        np.concatenate((corners, corners + rng.random((300, 2)).astype(np.float32)), axis=1),
        -np.sort(-rng.random(300).astype(np.float32)),
        rng.integers(0, 3, 300),
    )
    kept: list[int] = []
    over = overlaps(found.boxes, found.boxes)
    for row in range(300):
        if all(found.labels[row] != found.labels[other] or over[row, other] <= 0.5 for other in kept):
            kept.append(row)
    for most in (1, 7, 300):
        assert (suppressed(found, 0.5, most).boxes == found.boxes[kept[:most]]).all()


def test_deltas_are_those_of_the_formula() -> None:
    anchors = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    boxes = decoded(np.array([[1.0, -1.0, 0.5, 0.0]], np.float32), anchors, (0.1, 0.1, 0.2, 0.2))
    wide = 0.2 * np.exp(0.1)
    assert boxes[0] == pytest.approx([0.52 - wide / 2, 0.46 - 0.2, 0.52 + wide / 2, 0.46 + 0.2], abs=1e-6)


def test_boxes_come_back_in_pixels_of_the_photo() -> None:
    with fake_detector(LABELS, two_objects) as detector:
        found = detector.predict(np.zeros((400, 640, 3), np.uint8))
        assert found.names == ("cell", "plate")  # the third is covered by the first
        assert found.boxes == pytest.approx(np.array([[64, 80, 320, 160], [20, 12.5, 40, 25]]), abs=0.01)
        assert found.scores == pytest.approx([0.9, 0.5])
        assert [one.name for one in found] == ["cell", "plate"]
        assert found[1].box == pytest.approx((20, 12.5, 40, 25), abs=0.01)
        assert str(found).splitlines()[0] == "2 objects: 1 cell, 1 plate"
        assert str(detector.predict(np.zeros((9, 9, 3), np.uint8), score=0.99)) == "no objects"
        assert [len(one) for one in detector.predict_batch([np.zeros((9, 9, 3), np.uint8)] * 2)] == [2, 2]
        assert [len(one) for one in detector.stream([np.zeros((9, 9, 3), np.uint8)] * 2)] == [2, 2]


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (33, 50)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_photos_of_any_shape(size: tuple[int, int], orientation: int) -> None:
    """EXIF orientations: boxes are of the photo as it is looked at."""
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(content, "JPEG", exif=exif)
    upright = size if orientation < 5 else size[::-1]
    with fake_detector(LABELS, lambda _: [("cell", 0.9, (0, 0, 160, 320))]) as detector:
        found = detector.predict(content.getvalue())
        assert found.size == upright
        assert found.boxes[0] == pytest.approx([0, 0, upright[0] / 2, upright[1]], abs=0.01)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(640, 400), (90, 333), (320, 320), (1000, 40)])
def test_every_mode_brings_boxes_back(mode: str, size: tuple[int, int]) -> None:
    """Against a plain computation: scale and border by hand."""
    width, height = size
    wide, high = {
        "stretch": (320 / width, 320 / height),
        "letterbox": (min(320 / width, 320 / height),) * 2,
        "crop": (max(320 / width, 320 / height),) * 2,
    }[mode]
    left, top = (320 - wide * width) / 2, (320 - high * height) / 2
    with fake_detector(LABELS, lambda _: [("cell", 0.9, (140.0, 150.0, 180.0, 165.0))]) as fake:
        spec = dataclasses.replace(fake.manifest.preprocess, mode=mode, resize=320)
        manifest = dataclasses.replace(fake.manifest, preprocess=spec)
        detector = Detector(manifest, manifest.variants[0], fake.session)
        box = detector.predict(np.zeros((height, width, 3), np.uint8)).boxes[0]
    expected = np.array([(140 - left) / wide, (150 - top) / high, (180 - left) / wide, (165 - top) / high])
    # Sides are whole pixels: half of one in the tensor, seen in the photo.
    assert np.abs(box - np.clip(expected, 0, size * 2)).max() <= 0.5 + 0.5 / min(wide, high)


def test_options() -> None:
    image = np.zeros((320, 320, 3), np.uint8)
    with fake_detector(LABELS, two_objects) as detector:
        assert detector.predict(image, score=0.6).names == ("cell",)
        assert detector.predict(image, most=1).names == ("cell",)
        assert detector.predict(image, iou=1.0).names == ("cell", "plate", "cell")
        for classes in (["plate"], [1], "plate"):
            assert detector.predict(image, classes=classes).names == ("plate",)


@pytest.mark.parametrize(
    "asked",
    [{"score": 1.5}, {"iou": "x"}, {"most": 0}, {"classes": ["dog"]}, {"classes": [2]}, {"tile": 3}, {"score": True}],
)
def test_senseless_options_are_refused(asked: dict[str, object]) -> None:
    with fake_detector(LABELS, two_objects) as detector, pytest.raises(UsageError):
        detector.predict(np.zeros((9, 9, 3), np.uint8), **asked)  # type: ignore[call-overload]


def test_json_and_drawing() -> None:
    with fake_detector(LABELS, two_objects) as detector:
        found = detector.predict(np.zeros((320, 320, 3), np.uint8))
    content = json.loads(found.to_json())
    assert content["width"] == 320
    assert [one["id"] for one in content["objects"]] == ["cell", "plate"]
    assert content["objects"][0]["box"] == pytest.approx([32, 64, 160, 128], abs=0.01)
    drawn = np.asarray(found.drawn(Image.new("RGB", (320, 320))))
    assert drawn[100, 32].any()  # the left edge of the first box
    assert not drawn[100, 90].any()  # inside of it


def test_tiles_find_what_is_small() -> None:
    """A blob in one corner of a large photo, which a detector of small tiles reports in the photo's pixels."""
    photo = np.zeros((500, 700, 3), np.uint8)
    photo[430:450, 600:640] = 255

    def bright(image: npt.NDArray[np.uint8]) -> list[tuple[str, float, tuple[float, float, float, float]]]:
        rows, columns = np.nonzero(image[..., 0] > 127)
        if not len(rows):
            return []
        box = (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0)
        return [("cell", 0.9, box)]

    with fake_detector(LABELS, bright, size=(200, 200)) as detector:
        found = detector.predict(photo, tile=200)
        assert found.size == (700, 500)
        assert found.boxes[0] == pytest.approx([600, 430, 640, 450], abs=1)
        assert [len(one) for one in detector.predict([photo, photo], tile=200)] == [len(found)] * 2


@pytest.mark.parametrize("size", [(10, 10), (200, 90), (1000, 333)])
def test_squares_cover_the_photo(size: tuple[int, int]) -> None:
    seen = np.zeros(size[::-1], np.bool_)
    for left, top, right, bottom in squares(size, 90):
        assert right - left == min(90, size[0])
        assert bottom - top == min(90, size[1])
        seen[top:bottom, left:right] = True
    assert seen.all()


def outputs(detector: Detector, n: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    given = detector.run({"image": np.zeros((1, 320, 320, 3), np.uint8)})
    return {name: np.repeat(values, n, axis=0) for name, values in given.items()}


def test_agreement() -> None:
    one, other = (fake_detector(LABELS, answer) for answer in (two_objects, lambda _: two_objects(_)[:1]))
    decoder = one.manifest.decoder
    assert agreement(outputs(one, 3), outputs(one, 3), decoder).tolist() == [1.0, 1.0, 1.0]
    assert agreement(outputs(one), outputs(other), decoder).tolist() == [0.5]  # one is missed
    assert agreement(outputs(other), outputs(one), decoder).tolist() == [0.5]  # one is invented
    broken = outputs(one)
    broken["boxes"][0, 0, 0] = np.nan
    assert agreement(outputs(one), broken, decoder).tolist() == [0.0]
    moved = fake_detector(LABELS, lambda _: [("cell", 0.9, (32, 64, 150, 128))])  # an overlap of 0.92
    assert agreement(outputs(other), outputs(moved), decoder).tolist() == [1.0]
    renamed = fake_detector(LABELS, lambda _: [("plate", 0.9, (32, 64, 160, 128))])
    assert agreement(outputs(other), outputs(renamed), decoder).tolist() == [0.0]
    assert decision(outputs(one), one.manifest) is None
    with pytest.raises(BundleError):
        agreement(outputs(one), outputs(one), None)
    assert share_in_common(NOTHING, NOTHING) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"scores": "sigmoid"},
        {"variances": [0.1, 0.1, 0.2]},
        {"variances": None},
        {"most": 0},
        {"score": 1.5},
        {"anchors": {"grids": [[1, 1]], "shapes": [[[0.9, 0.9]] * 100], "sha256": "0"}},
        {"anchors": {"grids": [[1]], "shapes": [[[0.9, 0.9]] * 100], "sha256": "0"}},
        {"anchors": 3},
        {"anchors": {"grids": [[10**5, 10**5]], "shapes": [[[0.9, 0.9]]], "sha256": "0"}},
        {"anchors": {"grids": [[-1, 1]], "shapes": [[[0.9, 0.9]]], "sha256": "0"}},
        {"anchors": {"grids": [[1, 1]], "shapes": [[[float("nan"), 0.9]]], "sha256": "0"}},
        {"anchors": {"grids": [[1, 1]], "shapes": [[[0.9, 0.9]] * 100], "steps": [], "sha256": "0"}},
        {"anchors": {"grids": [[1, 1]], "shapes": [[[0.9, 0.9]] * 100], "steps": [[0.5, -0.5]], "sha256": "0"}},
        {"anchors": {"grids": [[1, 1]], "shapes": [[[0.9, 0.9]] * 100], "steps": "wide", "sha256": "0"}},
    ],
)
def test_damaged_decoders_are_refused(change: dict[str, object]) -> None:
    manifest = fake_detector(LABELS, two_objects).manifest
    assert manifest.decoder is not None
    with pytest.raises(BundleError):
        check(dataclasses.replace(manifest, decoder={**manifest.decoder, **change}))
    for other in ({"decoder": None}, {"task": "classification"}, {"labels": manifest.labels[:1]}):
        with pytest.raises(BundleError):
            check(dataclasses.replace(manifest, **other))  # type: ignore[arg-type]


def test_outputs_that_are_not_finite_are_an_error() -> None:
    detector = fake_detector(LABELS, two_objects)
    compute = detector.session._compute  # type: ignore[attr-defined]
    detector.session._compute = lambda feeds: {  # type: ignore[attr-defined]
        name: values * np.float32(np.nan) for name, values in compute(feeds).items()
    }
    with pytest.raises(EngineError, match="not finite"):
        detector.predict(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize(
    "objects", [[("dog", 0.5, (0, 0, 1, 1))], [("cell", 1.0, (0, 0, 1, 1))], [("cell", 0.5, (1, 0, 1, 1))]]
)
def test_a_fake_refuses_what_cannot_be(objects: list[tuple[str, float, tuple[float, float, float, float]]]) -> None:
    with pytest.raises(UsageError), fake_detector(LABELS, lambda _: objects) as detector:
        detector.predict(np.zeros((9, 9, 3), np.uint8))


def test_results_compare(tmp_path: Path) -> None:
    with fake_detector(LABELS, two_objects) as detector:
        one, same, other = (detector.predict(np.zeros((s, 9, 3), np.uint8)) for s in (9, 9, 8))
    assert isinstance(one, Detections)
    assert one == same
    assert one != other
    assert len({one, same}) == 1
