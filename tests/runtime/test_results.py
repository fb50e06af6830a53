"""What people see of a classifier and its results: labels, printed forms, JSON, pickles; errors between processes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetl_runtime
from edgetl_runtime import (
    BundleError,
    EdgetlError,
    ImageError,
    LatencyStats,
    MissingDependency,
    Prediction,
    UsageError,
    fake_classifier,
    load,
    open_bundle,
    self_test,
)

PHOTO = np.full((40, 50, 3), 200, np.uint8)


@pytest.fixture
def classifier() -> edgetl_runtime.Classifier:
    return fake_classifier(["daisy", "rosé", *"abcdef"], lambda image: {"daisy": float(image.mean()) / 256})


def test_a_classifier_says_what_it_is(pristine_bundle: Path, classifier: edgetl_runtime.Classifier) -> None:
    with load(pristine_bundle, variant="onnx.fp32") as real:
        assert real.labels == ("Red", "Green", "Blue", "Grey")
        prediction = real.predict(PHOTO)
        assert real.labels[prediction.top.index] == prediction.top.name
        assert repr(real) == (
            f"<Classifier 'colours': onnx.fp32 in onnxruntime {real.session.engine_version}; "
            "4 labels: Red, Green, Blue, Grey>"
        )
    assert "closed" in repr(real)
    assert repr(classifier) == "<Classifier 'fake': fake.fp32 in fake 0; 8 labels: daisy, rosé, a, b, c, ...>"


def test_results_are_json(pristine_bundle: Path, classifier: edgetl_runtime.Classifier) -> None:
    prediction = classifier.predict(PHOTO, top=1)
    document = json.loads(prediction.to_json())
    assert document["top"] == {"id": "daisy", "name": "daisy", "index": 0, "probability": pytest.approx(200 / 256)}
    assert document["scores"] == [document["top"]]
    assert document["accepted"] is True
    assert json.loads(classifier.predict(PHOTO, threshold=1).to_json(indent=1))["accepted"] is False
    assert "rosé" in classifier.predict(PHOTO).to_json()
    with load(pristine_bundle) as real:
        assert real.choice is not None
        assert json.loads(real.choice.to_json())["variant"] == real.variant.id
        assert json.loads(real.placement().to_json())["operators"]
    tested = json.loads(self_test(open_bundle(pristine_bundle)).to_json())
    assert tested["passed"] is True
    assert json.loads(LatencyStats(1, float("nan"), float("inf"), 1.0, 0.5).to_json())["p95_ms"] is None


def test_results_travel_between_processes_and_classifiers_do_not(classifier: edgetl_runtime.Classifier) -> None:
    prediction = classifier.predict(PHOTO)
    assert pickle.loads(pickle.dumps(prediction)) == copy.deepcopy(prediction) == prediction
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError, match="cannot be pickled or copied"):
            way(classifier)


@pytest.mark.parametrize(
    "error",
    [
        EdgetlError("what"),
        ImageError("what", fix="do"),
        BundleError("what", fix="do"),
        MissingDependency("onnx", needed_for="it", extra="onnx"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: EdgetlError) -> None:
    """Or a pool of processes waits for ever for the answer of a worker."""
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_the_package_lists_its_names_and_nothing_else() -> None:
    assert not {"Any", "TYPE_CHECKING", "annotations", "importlib"} & set(dir(edgetl_runtime))
    assert {*edgetl_runtime.__all__, "__version__"} <= set(dir(edgetl_runtime))
    assert all(hasattr(edgetl_runtime, name) for name in dir(edgetl_runtime))


def test_a_stream_of_pairs(classifier: edgetl_runtime.Classifier, tmp_path: Path) -> None:
    frames: list[Any] = [PHOTO // (i + 1) for i in range(6)]
    found = list(classifier.stream(frames, workers=3, pairs=True))
    assert [frame is given for (frame, _), given in zip(found, frames, strict=True)] == [True] * 6
    assert [prediction for _, prediction in found] == classifier.predict(frames)
    assert next(classifier.stream(PHOTO, pairs=True))[1] == classifier.predict(PHOTO)
    missing = tmp_path / "gone.png"
    pairs = list(classifier.stream([PHOTO, missing, PHOTO], errors="return", pairs=True))
    assert pairs[1][0] is missing
    assert isinstance(pairs[1][1], ImageError)
    stream = classifier.stream([PHOTO, missing], pairs=True)
    assert next(stream)[0] is PHOTO
    with pytest.raises(ImageError, match="gone"):
        next(stream)


def test_a_live_stream_ends_with_its_last_frame(classifier: edgetl_runtime.Classifier) -> None:
    def frames() -> Iterator[Any]:
        yield from (np.full((40, 50, 3), i, np.uint8) for i in range(1, 200))

    found = list(classifier.stream(frames(), latest=True, pairs=True, top=1))
    assert len(found) <= 199
    frame, prediction = found[-1]
    assert frame[0, 0, 0] == 199
    assert isinstance(prediction, Prediction)


@pytest.mark.parametrize("latest", [False, True])
def test_a_source_that_breaks_gives_its_results_first(latest: bool, classifier: edgetl_runtime.Classifier) -> None:
    def broken() -> Iterator[Any]:
        yield PHOTO
        raise ConnectionError("the camera is gone")

    stream = classifier.stream(broken(), workers=2, latest=latest)
    assert next(stream) == classifier.predict(PHOTO)
    with pytest.raises(ConnectionError, match="gone"):
        next(stream)
