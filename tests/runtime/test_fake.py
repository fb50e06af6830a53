"""An application's tests need no engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_runtime import EngineError, UsageError, fake_classifier


def brightness(image: npt.NDArray[np.uint8]) -> dict[str, float]:
    return {"day": 0.9} if image.mean() > 127 else {"night": 0.8}


def test_answers_are_those_that_were_given() -> None:
    with fake_classifier(["day", "dusk", "night"], brightness, size=(32, 48)) as classifier:
        day, night = (np.full((60, 80, 3), value, np.uint8) for value in (255, 0))
        assert str(classifier.predict(day, top=1)) == "day 90.0%"
        found = classifier.predict(night)
        assert [(score.id, round(score.probability, 6)) for score in found.scores] == [
            ("night", 0.8),
            ("day", 0.1),
            ("dusk", 0.1),
        ]
        assert [item.top.id for item in classifier.stream([day, night, day])] == ["day", "night", "day"]
        assert not classifier.predict(night, threshold=0.85).accepted
        assert classifier.session.engine == "fake"
        assert not classifier.placement().operators
    with pytest.raises(EngineError, match="closed"):
        classifier.predict(day)


def test_certainty_and_errors() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert fake_classifier(["a", "b"], lambda _: {"a": 1.0}).predict(image).top.probability == pytest.approx(1.0)

    def broken(image: npt.NDArray[np.uint8]) -> dict[str, float]:
        raise EngineError("the accelerator is gone")

    with pytest.raises(EngineError, match="accelerator"):
        fake_classifier(["a"], broken).predict(image)


@pytest.mark.parametrize("answer", [{"c": 0.5}, {"a": 0.0}, {"a": 0.7, "b": 0.7}, {"a": -0.1}])
def test_answers_that_are_none(answer: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="cannot answer"):
        fake_classifier(["a", "b"], lambda _: answer).predict(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels_must_be_there_and_differ(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="labels"):
        fake_classifier(labels, brightness)
