"""From a photo to labels, whatever the photo comes as."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

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
    with pytest.raises(EngineError, match="for 4 labels"):
        faked(manifest, np.zeros((1, 5), np.float32)).logits(np.zeros((24, 32, 3), np.uint8))


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
