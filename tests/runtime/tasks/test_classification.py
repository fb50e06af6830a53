"""From a photo to labels, whatever the photo comes as."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import (
    BundleError,
    Classifier,
    EngineError,
    FakeSession,
    ImageError,
    Manifest,
    UsageError,
    load,
    open_bundle,
    softmax,
)
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.session import Session, Tensors


@pytest.fixture
def manifest(pristine_bundle: Path) -> Manifest:
    return open_bundle(pristine_bundle).manifest


def faked(manifest: Manifest, logits: npt.NDArray[np.float32]) -> Classifier:
    """A classifier whose model always gives `logits`."""
    session = FakeSession((manifest.input,), (manifest.output,), lambda feeds: {"logits": logits})
    return Classifier(manifest, manifest.variants[0], session)


def test_every_source_gives_the_same_prediction(pristine_bundle: Path, red_photo: bytes, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(red_photo)
    image = Image.open(io.BytesIO(red_photo))
    array = np.asarray(image)
    with load(pristine_bundle) as classifier:
        expected = classifier.predict(red_photo)
        assert expected.top.id == "red"
        for source in (path, str(path), image, array):
            assert classifier.predict(source) == expected
        assert classifier.predict(array[:, :, ::-1], color="BGR") == expected
        assert classifier.predict(array[:, :, ::-1]).top.id == "blue"
        assert classifier.predict([red_photo, path]) == [expected, expected]
        assert classifier.predict([]) == []
        assert classifier.predict(item for item in (red_photo, array)) == [expected, expected]
        assert classifier.predict(np.stack([array, array])) == [expected, expected]


def test_prediction_is_typed_and_printable(pristine_bundle: Path, red_photo: bytes) -> None:
    with load(pristine_bundle) as classifier:
        prediction = classifier.predict(red_photo, top=2)
    assert [score.id for score in prediction.scores] == ["red", "grey"]
    assert (prediction.top.name, prediction.top.index) == ("Red", 0)
    assert str(prediction).startswith("Red 9")
    assert str(prediction).count("%") == 2


def test_probabilities_of_all_labels_sum_to_one(manifest: Manifest) -> None:
    classifier = faked(manifest, np.array([[1.0, 3.0, 3.0, 2.0]], np.float32))
    scores = classifier.predict(np.zeros((30, 30, 3), np.uint8), top=99).scores
    assert [score.index for score in scores] == [1, 2, 3, 0]
    assert sum(score.probability for score in scores) == pytest.approx(1.0)


def test_softmax_holds_with_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4], [-1e30, 0.0]], np.float32)), [[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(softmax(np.log([0.1, 0.2, 0.7])), [0.1, 0.2, 0.7])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_no_prediction(value: float, manifest: Manifest) -> None:
    classifier = faked(manifest, np.array([[0.0, value, 0.0, 0.0]], np.float32))
    with pytest.raises(EngineError, match="not finite"):
        classifier.predict(np.zeros((30, 30, 3), np.uint8))


def test_output_of_another_length_is_an_error(manifest: Manifest) -> None:
    with pytest.raises(EngineError, match=r"logits of \[1, 5\], not \[1, 4\]"):
        faked(manifest, np.zeros((1, 5), np.float32)).logits(np.zeros((24, 32, 3), np.uint8))


def test_a_single_logit_is_not_taken_for_certainty_without_a_word(manifest: Manifest) -> None:
    one = dataclasses.replace(
        manifest, labels=manifest.labels[:1], output=dataclasses.replace(manifest.output, shape=(1, 1))
    )
    with pytest.warns(UserWarning, match="gives a single logit: softmax makes 100 % of it"):
        classifier = faked(one, np.array([[-3.0]], np.float32))
    assert classifier.predict(np.zeros((48, 60, 3), np.uint8)).top.probability == 1.0


def test_bad_arguments_and_images(pristine_bundle: Path, tmp_path: Path) -> None:
    with load(pristine_bundle) as classifier:
        with pytest.raises(UsageError, match="top"):
            classifier.predict(np.zeros((4, 4, 3), np.uint8), top=0)
        with pytest.raises(ImageError, match=r"gone\.jpg"):
            classifier.predict(tmp_path / "gone.jpg")


def test_closed_classifier_says_so(pristine_bundle: Path, red_photo: bytes) -> None:
    with load(pristine_bundle) as classifier:
        pass
    classifier.close()
    with pytest.raises(EngineError, match="closed"):
        classifier.predict(red_photo)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "detection"}, "is for detection"),
        ({"input": {"dtype": "int8"}}, "takes int8"),
        ({"input": {"shape": (1, 3, 24, 32)}}, r"takes uint8 \[1, 3, 24, 32\]"),
        ({"output": {"dtype": "int8"}}, "gives int8"),
    ],
)
def test_contracts_it_cannot_serve_are_refused(change: dict[str, object], message: str, manifest: Manifest) -> None:
    fields = {
        name: dataclasses.replace(getattr(manifest, name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(BundleError, match=message):
        faked(dataclasses.replace(manifest, **fields), np.zeros((1, 4), np.float32))


def test_logits_are_the_models(pristine_bundle: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    with load(pristine_bundle, engine="openvino", threads=1) as classifier:
        for tensor, logits in zip(golden.tensors, golden.logits, strict=True):
            np.testing.assert_allclose(classifier.logits(tensor), logits, rtol=1e-5, atol=1e-5)


def test_threshold_leaves_out_what_is_less_probable(manifest: Manifest) -> None:
    classifier = faked(manifest, np.log([[0.1, 0.6, 0.25, 0.05]]).astype(np.float32))
    grey = np.zeros((30, 30, 3), np.uint8)
    prediction = classifier.predict(grey, threshold=0.2)
    assert [score.index for score in prediction.scores] == [1, 2]
    assert prediction.accepted
    prediction = classifier.predict(grey, threshold=0.7)
    assert prediction.scores == ()
    assert not prediction.accepted
    assert prediction.top.index == 1
    assert str(prediction).startswith("none of the labels (nearest: ")
    assert [item.accepted for item in classifier.stream([grey], threshold=0.7)] == [False]
    assert not classifier.predict_batch([grey], threshold=0.7)[0].accepted
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="threshold"):
            classifier.predict(grey, threshold=threshold)


@pytest.mark.parametrize("variant", ["onnx.int8", "tflite.fp32", "openvino.fp32"])
def test_stream_and_batch_answer_like_predict(variant: str, pristine_bundle: Path, tmp_path: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    photos = [*golden.images] * 5
    with load(pristine_bundle, variant=variant) as classifier:
        expected = [classifier.predict(photo) for photo in photos]
        assert len({prediction.top.id for prediction in expected}) > 1
        for workers in (None, 1, 4):
            assert list(classifier.stream(iter(photos), workers=workers)) == expected
            assert classifier.predict_batch(iter(photos), workers=workers) == expected
        assert list(classifier.stream([])) == classifier.predict_batch([]) == []


@pytest.mark.parametrize("variant", ["onnx.int8", "tflite.fp32", "openvino.fp32"])
def test_a_stream_that_is_behind_opens_a_session_for_each_worker(
    variant: str, pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl_runtime.lanes._PATIENCE", 0)
    opened, really = [], Bundle.session

    def seen(self: Bundle, variant_id: str, **options: Any) -> Session:
        opened.append((options["threads"], really(self, variant_id, **options)))
        return opened[-1][1]

    monkeypatch.setattr(Bundle, "session", seen)
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    photos = [*golden.images] * 4
    with load(pristine_bundle, variant=variant, threads=2) as classifier:
        expected = [classifier.predict(photo) for photo in photos]
        for _ in range(2):  # the second stream takes what the first one opened
            assert list(classifier.stream(photos, workers=2)) == expected
    assert [threads for threads, _ in opened] == ([2, 1] if variant == "onnx.int8" else [2, 1, 1])
    for _, session in opened:
        with pytest.raises(EngineError, match="closed"):
            session.run({})


def test_an_accelerator_is_not_shared_among_sessions(pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_runtime.lanes._PATIENCE", 0)
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    with load(pristine_bundle, variant="openvino.fp32", device="AUTO:CPU") as classifier:
        monkeypatch.setattr(Bundle, "session", None)
        assert len(list(classifier.stream(golden.images, workers=2))) == len(golden.images)


def test_unreadable_image_in_a_stream(pristine_bundle: Path, red_photo: bytes) -> None:
    with load(pristine_bundle) as classifier:
        expected = classifier.predict(red_photo)
        photos = [red_photo, b"no image", red_photo]
        found = list(classifier.stream(photos, errors="return"))
        assert [found[0], found[2]] == [expected, expected]
        assert isinstance(found[1], ImageError)
        stream = classifier.stream(photos)
        assert next(stream) == expected
        with pytest.raises(ImageError):
            next(stream)
        with pytest.raises(ImageError):
            classifier.predict_batch(photos)
        for arguments in ({"errors": "ignore"}, {"workers": 0}, {"top": 0}):
            with pytest.raises(UsageError):
                classifier.stream(photos, **arguments)  # type: ignore[call-overload]


def test_stream_is_left_early_and_without_end(pristine_bundle: Path, red_photo: bytes) -> None:
    taken = []

    def camera() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield red_photo

    with load(pristine_bundle) as classifier:
        for number, prediction in enumerate(classifier.stream(camera(), workers=2)):
            assert prediction.top.id == "red"
            if number == 9:
                break
    assert len(taken) <= 10 + 2 * 2


def test_threads_share_a_classifier(pristine_bundle: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    for variant in ("onnx.int8", "tflite.fp32", "openvino.fp32"):
        with load(pristine_bundle, variant=variant) as classifier, ThreadPoolExecutor(8) as pool:
            expected = [classifier.predict(photo) for photo in golden.images]
            assert list(pool.map(classifier.predict, [*golden.images] * 20)) == expected * 20


@pytest.mark.parametrize(("size", "batches"), [(-1, [32, 8]), (3, [3] * 14), (1, [1] * 40)])
def test_batches_are_as_large_as_the_model_takes(size: int, batches: list[int], manifest: Manifest) -> None:
    ran = []

    def compute(feeds: Tensors) -> Tensors:
        ran.append(len(feeds["image"]))
        means = feeds["image"].mean(axis=(1, 2))
        return {"logits": np.pad(means, ((0, 0), (0, 1))).astype(np.float32)}

    shape = (size, *manifest.input.shape[1:])
    batched = dataclasses.replace(
        manifest,
        input=dataclasses.replace(manifest.input, shape=shape),
        output=dataclasses.replace(manifest.output, shape=(size, 4)),
    )
    session = FakeSession((batched.input,), (batched.output,), compute)
    classifier = Classifier(batched, batched.variants[0], session)
    images = [
        np.full((30, 30, 3), (10 * (i % 3 == 0), 10 * (i % 3 == 1), 10 * (i % 3 == 2)), np.uint8) for i in range(40)
    ]
    found = classifier.predict_batch(images)
    assert [prediction.top.index for prediction in found] == [i % 3 for i in range(40)]
    assert ran == batches


def test_raw_tensors(pristine_bundle: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    with load(pristine_bundle) as classifier:
        found = classifier.run({"image": golden.tensors[:1]})
        np.testing.assert_array_equal(found["logits"][0], classifier.logits(golden.tensors[0]))
        with pytest.raises(EngineError, match="must be uint8"):
            classifier.run({"image": golden.tensors[:1].astype(np.float32)})


@pytest.mark.parametrize("thing", [5, None, 2.5, {"image": "photo.jpg"}, [3]])
def test_things_that_are_no_images(thing: object, pristine_bundle: Path) -> None:
    with load(pristine_bundle) as classifier, pytest.raises(UsageError, match="cannot read an image from"):
        classifier.predict(thing)  # type: ignore[call-overload]
