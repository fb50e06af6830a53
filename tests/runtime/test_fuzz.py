"""A slice of the fuzzer (``tests/fuzz``), and the proof that it notices what it is there to notice."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

for library in ("onnx", "openvino", "flatbuffers", "ai_edge_litert", "onnxruntime", "torchvision"):
    pytest.importorskip(library)
sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import fuzz_runtime  # noqa: E402
from soak import soak  # noqa: E402
from workers import BAD, Limits, case_files, kinds, run_all, write_corpus  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(corpus: Path) -> dict[str, Counter[str]]:
    """By plant - a way to break the runtime - what the fuzzer says of some inputs then."""
    plants = {
        "unsealed": ("model/model_alone", 20),
        "wrong": ("image/oriented", 20),
        "touch": ("array/strides", 1),
        "escape": ("array/strides", 1),
        "memory": ("array/strides", 1),
        "crash": ("array/strides", 1),
        "hang": ("array/strides", 1),
    }
    # Without the seal a damaged file may crash the worker, and the next one is sound: so every plant is planted anew.
    work: list[tuple[str, int]] = []
    for plant, (kind, n) in plants.items():
        for index in range(n):
            work += [(f"plant/{plant}", index), (kind, index)]
    results = run_all(work, corpus, seed=0, workers=1, limits=Limits(seconds=6.0))
    found: dict[str, Counter[str]] = {}
    for before, after in zip(results[::2], results[1::2], strict=True):
        found.setdefault(before.kind.removeprefix("plant/"), Counter())[after.outcome] += 1
    return found


def test_odd_inputs_give_the_right_answer_or_an_error_that_helps(corpus: Path) -> None:
    work = fuzz_runtime.planned(9 * len(kinds()), None)
    assert len(work) >= 300
    results = run_all(work, corpus, seed=20261122, workers=2, limits=Limits())
    assert not [result for result in results if result.outcome in BAD]
    outcomes = Counter(result.outcome for result in results)
    assert len(results) == len(work)
    # Neither everything refused nor everything taken: both kinds of answers were met.
    assert min(outcomes["right"], outcomes["error"]) > 60


def test_the_same_input_can_be_made_again(corpus: Path) -> None:
    for kind in kinds():
        assert case_files(corpus, 3, kind, 5) == case_files(corpus, 3, kind, 5)
    assert case_files(corpus, 3, "image/sound", 5) != case_files(corpus, 3, "image/sound", 6)


def test_a_wrong_result_is_noticed(outcomes: dict[str, Counter[str]]) -> None:
    """The runtime without EXIF orientation: those that are upright are still right."""
    assert outcomes["wrong"]["wrong"] >= 8
    assert outcomes["wrong"]["right"] >= 1


@pytest.mark.parametrize(
    ("plant", "outcome"),
    [("crash", "crash"), ("hang", "hang"), ("escape", "escaped"), ("memory", "memory"), ("touch", "touched")],
)
def test_what_is_worse_than_wrong_is_noticed(plant: str, outcome: str, outcomes: dict[str, Counter[str]]) -> None:
    assert outcomes[plant] == {outcome: 1}


def test_without_the_seal_damaged_model_files_would_be_run(outcomes: dict[str, Counter[str]]) -> None:
    assert outcomes["unsealed"]["accepted"] + outcomes["unsealed"]["crash"] >= 3


def test_threads_get_the_answers_of_one_and_memory_stays(pristine_bundle: Path) -> None:
    for variant in ("onnx.fp32", "tflite.fp32", "openvino.fp32"):
        result = soak(pristine_bundle, variant, n=400, threads=8, per_thread=20)
        assert result.different == 0
        assert result.growth < 20 * 2**20  # a slice is too short to be exact; the script is
