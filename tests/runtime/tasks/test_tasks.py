"""The table of tasks on the device: what it does not know is refused, what is asked of the wrong task too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgetl_runtime import BundleError, Classifier, UsageError, load, open_bundle
from edgetl_runtime.predictor import Predictor
from edgetl_runtime.tasks import TASKS, predict_options, task_of


def test_an_unknown_task_is_refused_before_anything_is_opened(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    bundle.manifest = dataclasses.replace(bundle.manifest, task="clasification")
    with pytest.raises(BundleError, match="did you mean 'classification'") as caught:
        load(bundle)
    assert caught.value.fix == "pip install --upgrade edgetl"


class Detector(Predictor[str]):
    """What another task would give."""


def test_the_kind_that_is_asked_for_is_the_kind_that_comes(pristine_bundle: Path) -> None:
    with load(pristine_bundle, kind=Classifier) as classifier:
        assert type(classifier) is Classifier
    with pytest.raises(BundleError, match="is for classification, and a Detector is asked for"):
        load(pristine_bundle, kind=Detector)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_names_its_options_once(task: str) -> None:
    names = [option.name for option in task_of(task).options]
    assert len(set(names)) == len(names)


def test_options_of_another_task_are_refused() -> None:
    assert predict_options("classification", {"top": 3, "threshold": None}) == {"top": 3}
    assert predict_options("classification", {"score": None}) == {}
    with pytest.raises(UsageError, match="--most-boxes says nothing in classification"):
        predict_options("classification", {"most_boxes": 4})
