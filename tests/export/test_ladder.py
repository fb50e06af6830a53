"""The ladder: it stops where a target fits, keeps the nearest rung where none does, and computes no rung in vain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_export import ladder
from edgetl_export.artifact import Artifact
from edgetl_export.ladder import Climb, Climbed, climb, rungs
from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_runtime.comparison import sqnr_db

if TYPE_CHECKING:
    from tests.export.conftest import Int8

N = 20


@dataclass
class Engines:
    """Writers and a runner whose logits are set by target and rung: how many of `N` photos get another label."""

    changed: dict[str, list[int | str | None]]
    asked: list[str] = field(default_factory=list)

    def writers(self) -> dict[str, Callable[[Quantized], Artifact | str]]:
        """An entry that is a string is the reason why there is no artifact."""

        def writer(target: str) -> Callable[[Quantized], Artifact | str]:
            def write(quantized: Quantized) -> Artifact | str:
                place = sum(line.startswith(f"{target} ") for line in self.asked)
                self.asked.append(f"{target} {quantized.quantization.rung}")
                entry = self.changed[target][place]
                return entry if isinstance(entry, str) else Artifact({".x": f"{target} {place}".encode()})

            return write

        return {target: writer(target) for target in self.changed}

    def run(self, target: str, artifact: Artifact, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """The original's logits, with some labels changed; an entry that is None gives the right label and one NaN."""
        entry = self.changed[target][int(artifact.files[".x"].split()[1])]
        logits = truth() + np.float32(0.01)
        assert not isinstance(entry, str)
        if entry is None:
            logits[0] = [9.0, np.nan, 0.0]
            return {"logits": logits}
        logits[:entry] = np.roll(logits[:entry], 1, axis=1)
        return {"logits": logits}


def truth() -> npt.NDArray[np.float32]:
    return np.tile(np.array([[9.0, 1.0, 0.0]], np.float32), (N, 1))


@pytest.fixture
def plan(int8: Int8, monkeypatch: pytest.MonkeyPatch) -> Climb:
    """For engines that are made up; the rungs are all there, and cost nothing."""

    def cheap(_plan: Climb, *, track: object) -> Iterator[tuple[Quantized, str | None]]:
        for rung in ("static", "repair", "mixed", "distill"):
            yield int8.quantized.on_rung(rung), f"about {rung}"

    monkeypatch.setattr(ladder, "rungs", cheap)
    judge = int8.trained.tensors[:N]
    return Climb(int8.pixels, int8.calibration, judge, judge, {"logits": truth()}, max_drop=0.1)


def climbed(plan: Climb, **changed: list[int | str | None]) -> tuple[Climbed, list[str]]:
    engines = Engines(changed)
    found = climb(plan, engines.writers(), engines.run)
    return found, engines.asked


def test_a_target_that_fits_stops_and_the_others_go_on(plan: Climb) -> None:
    found, asked = climbed(plan, onnx=[2], tflite=[9, 5, 1], openvino=[4, 0])
    assert asked == [
        "onnx static", "tflite static", "openvino static",
        "tflite repair", "openvino repair",
        "tflite mixed",
    ]  # fmt: skip
    assert {variant: artifact.files[".x"] for variant, artifact in found.artifacts.items()} == {
        "onnx.int8": b"onnx 0",
        "tflite.int8": b"tflite 2",
        "openvino.int8": b"openvino 1",
    }
    assert {variant: kept.rung for variant, kept in found.quantizations.items()} == {
        "onnx.int8": "static",
        "tflite.int8": "mixed",
        "openvino.int8": "repair",
    }
    assert found.over_budget == {}
    assert found.failed == {}


def test_every_rung_that_was_tried_is_told_with_what_it_gave(plan: Climb) -> None:
    found, _ = climbed(plan, tflite=[9, 1])
    assert [(rung.variant, rung.rung, rung.kept, rung.note) for rung in found.rungs] == [
        ("tflite.int8", "static", False, "about static"),
        ("tflite.int8", "repair", True, "about repair"),
    ]
    assert [rung.drop for rung in found.rungs] == pytest.approx([9 / N, 1 / N])
    assert [rung.agreement for rung in found.rungs] == pytest.approx([1 - 9 / N, 1 - 1 / N])
    assert all(rung.n == N and rung.seconds >= 0 for rung in found.rungs)
    assert found.rungs[1].sqnr_db > found.rungs[0].sqnr_db


def test_the_budget_itself_fits_and_one_photo_more_does_not(plan: Climb) -> None:
    assert climbed(plan, onnx=[2])[0].over_budget == {}
    found, _ = climbed(plan, onnx=[3, 3, 3, 3])
    assert set(found.over_budget) == {"onnx.int8"}


def test_the_nearest_rung_is_kept_where_none_fits(plan: Climb) -> None:
    found, asked = climbed(plan, onnx=[9, 4, 7, 6], tflite=[0])
    assert len(asked) == 5
    assert found.artifacts["onnx.int8"].files[".x"] == b"onnx 1"
    assert found.quantizations["onnx.int8"].rung == "repair"
    kept = [(rung.variant, rung.rung) for rung in found.rungs if rung.kept]
    assert kept == [("tflite.int8", "static"), ("onnx.int8", "repair")]
    assert found.over_budget == {
        "onnx.int8": "no rung fits: nearest is repair, 4 of 20 photos get another label, --max-drop 0.1 allows 2"
    }


def test_parts_of_photos_that_change_are_no_photos(plan: Climb) -> None:
    """Of masks it is pixels: 0 of 20 photos, which a limit of 0 allows, is no reason to refuse."""
    masks = replace(plan, max_drop=0.0, agreement=lambda original, outputs: np.full(N, 0.9977))
    found, _ = climbed(masks, onnx=[0] * 9)
    assert found.over_budget == {
        "onnx.int8": "no rung fits: nearest is static, 0.23 % of 20 photos' decisions change, --max-drop 0 allows 0 %"
    }


def test_of_two_that_decide_alike_the_one_with_better_logits_is_kept(plan: Climb) -> None:
    class Noisy(Engines):
        def run(
            self, target: str, artifact: Artifact, images: npt.NDArray[np.uint8]
        ) -> dict[str, npt.NDArray[np.float32]]:
            place = int(artifact.files[".x"].split()[1])
            return {"logits": super().run(target, artifact, images)["logits"] + np.float32([0.4, 0.3, 0.1, 0.2][place])}

    engines = Noisy({"onnx": [5, 5, 5, 5]})
    found = climb(plan, engines.writers(), engines.run)
    assert found.quantizations["onnx.int8"].rung == "mixed"


def test_a_target_that_cannot_be_written_is_told_and_the_others_are_there(plan: Climb) -> None:
    found, _ = climbed(plan, onnx=["no kernel", "no kernel", "no kernel", "no kernel at all"], tflite=[0])
    assert found.failed == {"onnx.int8": "no kernel at all"}
    assert set(found.artifacts) == set(found.quantizations) == {"tflite.int8"}
    assert found.over_budget == {}


def test_a_rung_that_cannot_be_written_is_skipped(plan: Climb) -> None:
    found, _ = climbed(plan, onnx=["no kernel", 9, 0])
    assert found.failed == {}
    assert found.quantizations["onnx.int8"].rung == "mixed"
    found, _ = climbed(plan, onnx=[9, "no kernel", "no kernel", "no kernel"])
    assert found.failed == {}
    assert found.quantizations["onnx.int8"].rung == "static"
    assert set(found.over_budget) == {"onnx.int8"}


def test_logits_that_are_not_numbers_agree_with_nothing(plan: Climb) -> None:
    found, asked = climbed(plan, onnx=[None, 9, None, None])
    assert len(asked) == 4
    assert [rung.agreement for rung in found.rungs] == pytest.approx([0, 1 - 9 / N, 0, 0])
    assert found.quantizations["onnx.int8"].rung == "repair"
    assert all(np.isfinite(rung.sqnr_db) for rung in found.rungs)
    assert json.dumps([rung.sqnr_db for rung in found.rungs], allow_nan=False)


@pytest.mark.slow
def test_nothing_of_a_rung_is_computed_before_it_is_asked_for(int8: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("correct_biases", "noise_by_node", "in_float", "distill"):
        monkeypatch.setattr(ladder, name, noted(name, getattr(ladder, name)))
    images = np.concatenate(list(int8.trained.samples))
    judge = int8.trained.tensors[:40]
    plan = Climb(
        int8.pixels, int8.calibration, images, judge, int8.trained.source.reference().outputs(judge), 0.0,
        quantize=noted("quantize", quantize_static), distillation=DistillOptions(epochs=1),
    )  # fmt: skip
    going = rungs(plan)
    assert done == []
    seen, works = [], []
    for quantized, note in going:
        seen.append((quantized.quantization.rung, note))
        works.append(done.copy())
        done.clear()
    names = [rung for rung, _ in seen]
    learned = names.index("distill")
    before, behind = slice(2, learned), slice(learned + 1, None)
    assert names[:2] == ["static", "repair"]
    assert {*names[before], *names[behind]} == {"mixed"}
    assert [works[place] for place in (0, 1, learned)] == [["quantize"], ["correct_biases"], ["distill"]]
    for mixed, work in ((works[before], {"in_float", "correct_biases"}), (works[behind], {"in_float"})):
        assert mixed[0].pop(0) == "noise_by_node"
        assert all(set(done) == work for done in mixed)
    assert seen[0][1] is None
    assert seen[1][1] == "corrected biases"
    assert seen[learned][1] == "1 epochs on 64 photos"
    floats = [int(note.split(" nodes")[0].split()[-1]) for rung, note in seen if rung == "mixed" and note]
    for part in (floats[: learned - 2], floats[learned - 2 :]):
        assert part[0] > 0
        assert part == sorted(set(part))
        assert len(part) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attentive", "channelwise"])
def test_there_is_every_rung_for_a_network_of_matrix_products(kind: str, request: pytest.FixtureRequest) -> None:
    int8: Int8 = request.getfixturevalue(kind)
    images, judge = np.concatenate(list(int8.trained.samples)), int8.trained.tensors[:40]
    reference = int8.trained.source.reference()(judge)
    plan = Climb(
        int8.pixels, int8.calibration, images, judge, {"logits": reference}, 0.0, distillation=DistillOptions(epochs=1)
    )  # fmt: skip
    lost = {}
    for quantized, _ in rungs(plan):
        simulation = Simulation(quantized.captured, quantized.quantization)
        lost.setdefault(quantized.quantization.rung, []).append(sqnr_db(reference, simulation.outputs(judge)["logits"]))
    assert set(lost) >= {"static", "mixed", "distill"}
    assert lost["mixed"][0] > lost["static"][0]
