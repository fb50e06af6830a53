"""From a photo to a mask of its own size, and what can be done with it."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import (
    BundleError,
    EngineError,
    FakeSession,
    ImageError,
    Label,
    Manifest,
    Preprocess,
    Segmentation,
    Segmenter,
    TensorSpec,
    UsageError,
    fake_segmenter,
)
from edgetl_runtime.placing import place
from edgetl_runtime.tasks.segmentation import LABELS, LOGITS, agreement, check, decision, label_map
from edgetl_runtime.tasks.segmentations import UNSEEN, mask_colours

NAMES = ("background", "cat", "dog")


def bright_is_cat(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """At an eighth of the size: bright places are cats."""
    return (image[4::8, 4::8, 0] > 127).astype(np.int64)


def scene(width: int = 123, height: int = 77) -> npt.NDArray[np.uint8]:
    """A bright block in the dark, away from the middle."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[height // 8 : height // 2, width // 2 : width - width // 8] = 255
    return photo


def segmenter(values: npt.NDArray[Any], *, name: str = LOGITS, mode: str = "stretch") -> Segmenter:
    """One whose model always gives `values`."""
    fake = fake_segmenter(NAMES, bright_is_cat, size=(32, 48))
    spec = Preprocess(0 if mode != "crop" else 32, (32, 48), mode=mode)
    output = TensorSpec(name, values.dtype.name, (1, *values.shape))
    manifest = dataclasses.replace(fake.manifest, preprocess=spec, output=output, outputs=())
    session = FakeSession((manifest.input,), (manifest.output,), lambda feeds: {name: values[np.newaxis]})
    return Segmenter(manifest, manifest.variants[0], session)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("size", [(123, 77), (64, 64), (400, 333)])
def test_a_mask_is_as_large_as_its_photo_and_lies_on_the_object(size: tuple[int, int], smooth: bool) -> None:
    photo = scene(*size)
    with fake_segmenter(NAMES, bright_is_cat, size=(128, 192)) as predictor:
        found = predictor.predict(photo, smooth=smooth)
    truth = photo[:, :, 0] == 255
    assert found.mask.shape == photo.shape[:2]
    assert found.mask.dtype == np.uint8
    overlap = np.count_nonzero(truth & (found.mask == 1)) / np.count_nonzero(truth | (found.mask == 1))
    assert overlap > 0.85  # the map has places of 8 pixels


def test_a_photo_on_its_side_gets_a_mask_of_the_upright_one() -> None:
    upright = Image.fromarray(scene(80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    content = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    with fake_segmenter(NAMES, bright_is_cat) as predictor:
        found = predictor.predict(content.getvalue())
        assert np.array_equal(found.mask, predictor.predict(upright).mask)
        grey = predictor.predict(upright.convert("L"))
    assert found.mask.shape == (50, 80)
    assert np.array_equal(grey.mask, found.mask)


def test_shares_text_and_json() -> None:
    with fake_segmenter(NAMES, bright_is_cat) as predictor:
        found = predictor.predict(scene())
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert list(found.shares) == list(NAMES)
    assert found.shares["cat"] == pytest.approx(np.mean(found.mask == 1))
    assert str(found) == f"background {found.shares['background']:.1%}, cat {found.shares['cat']:.1%}"
    assert repr(found) == f"<Segmentation 123x77: {found}>"
    told = json.loads(found.to_json())
    runs = told["mask"]
    assert np.array_equal(np.repeat(runs["values"], runs["counts"]).reshape(runs["size"]), found.mask)
    assert told["shares"] == found.shares
    assert [label["name"] for label in told["labels"]] == list(NAMES)


def test_labels_of_masks_have_colours_of_their_own() -> None:
    labels = [Label(name, name) for name in ("sky", *(f"thing {n}" for n in range(20)))]
    colours = mask_colours(labels, 0.5)
    assert len({tuple(colour) for colour in colours[:21].tolist()}) == 21
    assert colours[:21, 3].tolist() == [128] * 21  # the first label is no background by itself
    assert not colours[21:].any()


def test_one_for_one_batches_and_streams_are_the_same() -> None:
    photos = [scene(), scene(60, 90), scene(200, 150)]
    with fake_segmenter(NAMES, bright_is_cat) as predictor:
        expected = [predictor.predict(photo) for photo in photos]
        assert predictor.predict(photos) == expected
        assert predictor.predict_batch(photos) == expected
        assert list(predictor.stream(photos, workers=2)) == expected
        assert len({hash(found) for found in [*expected, *predictor.predict(photos)]}) == 3
        broken = [photos[0], b"no image", photos[1]]
        first, error, last = predictor.stream(broken, errors="return")
        assert (first, last) == (expected[0], expected[1])
        assert isinstance(error, ImageError)
        (pair,) = predictor.stream(photos[:1], pairs=True)
        assert pair[1] == expected[0]


def test_probabilities_are_those_of_the_pixels() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    found = segmenter(logits).predict(scene(), smooth=True)
    probabilities = found.probabilities()
    assert probabilities.shape == (77, 123, 3)
    np.testing.assert_allclose(probabilities.sum(axis=2), 1.0, rtol=1e-5)
    assert np.array_equal(probabilities.argmax(axis=2), found.mask)
    np.testing.assert_array_equal(found.probabilities(slice(10, 20)), probabilities[10:20])


def test_where_the_photo_was_cropped_nothing_is_known() -> None:
    logits = np.zeros((4, 6, 3), np.float32)
    logits[:, :, 1] = 1.0
    for smooth in (False, True):
        found = segmenter(logits, mode="crop").predict(np.zeros((96, 48, 3), np.uint8), smooth=smooth)
        seen = found.mask != UNSEEN
        assert seen.any()
        assert not seen[0].any()
        assert not seen[-1].any()
        assert found.shares == {"background": 0.0, "cat": 1.0, "dog": 0.0}


def test_the_overlay_leaves_the_background_clear() -> None:
    photo = scene()
    with fake_segmenter(NAMES, bright_is_cat) as predictor:
        found = predictor.predict(photo)
    overlay = np.asarray(found.overlay(opacity=0.4))
    assert overlay.shape == (*found.mask.shape, 4)
    assert set(np.unique(overlay[found.mask == 0][:, 3])) == {0}
    assert set(np.unique(overlay[found.mask == 1][:, 3])) == {102}
    drawn = np.asarray(found.drawn(Image.fromarray(photo)))
    assert np.array_equal(drawn[found.mask == 0], photo[found.mask == 0])
    assert not np.array_equal(drawn[found.mask == 1], photo[found.mask == 1])
    with pytest.raises(UsageError, match="123x77"):
        found.drawn(Image.new("RGB", (77, 123)))
    with pytest.raises(UsageError, match="opacity"):
        found.overlay(opacity=2.0)


def test_a_file_that_gives_labels() -> None:
    labels = np.zeros((32, 48), np.int64)
    labels[8:16, 24:40] = 2
    predictor = segmenter(labels, name=LABELS)
    found = predictor.predict(np.zeros((64, 96, 3), np.uint8))
    assert np.array_equal(found.mask, np.kron(labels, np.ones((2, 2))))
    assert found == predictor.predict(np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(UsageError, match="labels and no logits"):
        found.probabilities()
    with pytest.raises(UsageError, match="smooth says nothing"):
        predictor.predict(scene(), smooth=True)
    with pytest.raises(EngineError, match="labels that are none"):
        segmenter(labels + 2, name=LABELS).predict(scene())


def test_logits_that_are_not_finite() -> None:
    logits = np.zeros((4, 6, 3), np.float32)
    logits[1, 1, 1] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        segmenter(logits).predict(scene())


def with_output(shape: tuple[int, ...], dtype: str = "float32") -> Callable[[Manifest], Manifest]:
    return lambda manifest: dataclasses.replace(manifest, output=TensorSpec("logits", dtype, shape), outputs=())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_output((1, 4, 6, 2)), "one for each label"),
        (with_output((1, 3)), "one for each label"),
        (with_output((1, 4, 6, 3), "int8"), "one for each label"),
        (with_output((1, 4, 6), "float32"), "or labels"),
        (lambda manifest: dataclasses.replace(manifest, task="classification"), "is for classification"),
    ],
)
def test_manifests_that_are_none(change: Callable[[Manifest], Manifest], message: str) -> None:
    manifest = fake_segmenter(NAMES, bright_is_cat).manifest
    check(manifest)
    with pytest.raises(BundleError, match=message):
        check(change(manifest))


def test_too_many_labels_for_a_mask() -> None:
    manifest = fake_segmenter(NAMES, bright_is_cat).manifest
    labels = tuple(Label(str(index), str(index)) for index in range(256))
    many = dataclasses.replace(with_output((1, 4, 6, 256))(manifest), labels=labels)
    with pytest.raises(BundleError, match="room for 1 to 255"):
        check(many)


def test_agreement_is_the_share_of_pixels() -> None:
    logits = np.zeros((3, 4, 4, 2), np.float32)
    logits[..., 0] = 1.0
    other = logits.copy()
    other[1, :, 2:, 1] = 3.0  # half of the map
    other[2, 0, 0, 0] = np.inf
    assert agreement({LOGITS: logits}, {LOGITS: other}).tolist() == [1.0, 0.5, 0.0]
    finer = agreement({LOGITS: logits}, {LOGITS: other}, {"size": [8, 8]})
    assert finer[0] == 1.0
    assert 0.4 < finer[1] < 0.6
    maps = {LABELS: np.zeros((1, 2, 2), np.uint8)}, {LABELS: np.array([[[0, 1], [0, 0]]], np.uint8)}
    assert agreement(*maps).tolist() == [0.75]
    assert decision({LOGITS: logits[0]}, fake_segmenter(NAMES, bright_is_cat).manifest) is None


def test_label_maps_of_one_label_and_of_the_same_size() -> None:
    assert not label_map(np.zeros((2, 2, 1), np.float32), (5, 7)).any()
    logits = np.random.default_rng(1).normal(size=(5, 7, 9)).astype(np.float32)
    assert np.array_equal(label_map(logits, (5, 7)), logits.argmax(axis=2))


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_a_fake_segmenter_needs_labels(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="labels"):
        fake_segmenter(labels, bright_is_cat)


@pytest.mark.parametrize("mask", [np.full((2, 2), 3), np.zeros(4, np.int64), np.full((2, 2), 0.5)])
def test_what_a_fake_segmenter_cannot_answer(mask: npt.NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="cannot answer"):
        fake_segmenter(NAMES, lambda _: mask).predict(scene())


def test_a_mask_of_twelve_megapixels_is_made_in_strips() -> None:
    logits = np.random.default_rng(2).normal(size=(8, 12, 21)).astype(np.float32)
    fake = fake_segmenter([str(index) for index in range(21)], bright_is_cat, size=(32, 48))
    found: Segmentation = fake.interpret(logits, place((2000, 1500), fake.manifest.preprocess), smooth=True)
    rows = found.placed.values(logits, rows=slice(700, 710))
    assert np.mean(rows.argmax(axis=2) == found.mask[700:710]) > 0.9999
