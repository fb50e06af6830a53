"""How long a job takes: parts in the order in which they come, seconds that grow with what they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from edgetl import pipeline
from edgetl.data.listing import list_photos
from edgetl.data.options import DataOptions
from edgetl.estimate import (
    USUAL_SPEED,
    Speed,
    estimate_lines,
    measure_speed,
    parts_of_export,
    parts_of_run,
    parts_of_training,
    parts_of_verify,
    spoken,
)
from edgetl.recipe import Recipe

T = TypeVar("T")
MakePhotos = Callable[[Path, Mapping[str, int]], Path]


def seconds(recipe: Recipe, sizes: tuple[int, int] = (1000, 100), speed: Speed = USUAL_SPEED) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts_of_run(recipe, sizes, speed):
        found[part.stage] = found.get(part.stage, 0.0) + part.seconds
    return found


def test_the_stages_of_a_run() -> None:
    assert list(seconds(Recipe())) == ["photos", "train", "calibrate", "quantize", "export", "verify", "latency"]
    floats = Recipe().updated({"export": {"precisions": ["fp32"]}})
    assert list(seconds(floats)) == ["photos", "train", "export", "verify", "latency"]


def test_more_work_takes_longer() -> None:
    usual, full = seconds(Recipe()), seconds(Recipe().updated({"train": {"strategy": "full", "epochs": 10}}))
    assert full["train"] > 5 * usual["train"]
    assert seconds(Recipe(), (2000, 100))["train"] > 1.8 * usual["train"]
    assert seconds(Recipe(), (1000, 1000))["verify"] > 5 * usual["verify"]
    assert seconds(Recipe(), (2000, 100))["calibrate"] == usual["calibrate"]  # it takes so many photos at most
    assert seconds(Recipe().updated({"export": {"for": "mcu"}}))["quantize"] < usual["quantize"]
    slow = Speed(forward=10 * USUAL_SPEED.forward)
    assert seconds(Recipe(), speed=slow)["train"] > 5 * usual["train"]
    assert seconds(Recipe(), speed=slow)["export"] == usual["export"]


def test_learning_integers_is_counted() -> None:
    distilled = Recipe().updated({"export": {"quantize": "distill", "distill_minutes": 5.0}})
    assert seconds(distilled)["quantize"] >= 300.0


def test_the_lines_say_where_the_numbers_are_from() -> None:
    parts = parts_of_training(Recipe(), (1000, 100))
    measured = estimate_lines(parts, Speed(measured=True))
    assert "short measurement here" in "\n".join(measured)
    assert "short measurement" not in "\n".join(estimate_lines(parts, USUAL_SPEED))
    assert "on 2 cores of an AMD EPYC" in "\n".join(estimate_lines(parts, USUAL_SPEED))
    for lines in (measured, estimate_lines(parts_of_run(Recipe(), (10**6, 10**5)), USUAL_SPEED)):
        assert all("  " not in line.strip() for line in lines)


def test_a_measurement_is_of_the_network_and_the_photos(make_photos: MakePhotos, tmp_path: Path) -> None:
    photos = sorted(make_photos(tmp_path / "photos", {"red": 5}).rglob("*.jpg"))
    small = Recipe().updated({"model": {"backbone": "mobilenet_v3_small", "image_size": 32}})
    large = small.updated({"model": {"image_size": 224}})
    found, more = measure_speed(small, photos), measure_speed(large, photos)
    assert found.measured
    assert 0.0 < found.forward < more.forward
    assert found.check > 0.0
    assert found.read > 0.0
    assert 0.5 < found.size < 2.0


@pytest.mark.parametrize(
    ("given", "words"), [(0.2, "1 s"), (7, "7 s"), (42, "40 s"), (100, "2 min"), (3599, "60 min"), (9000, "2.5 h")]
)
def test_times_are_as_exact_as_an_estimate(given: float, words: str) -> None:
    assert spoken(given) == words


@pytest.mark.slow
def test_a_run_shows_its_parts_in_the_order_of_the_plan(make_photos: MakePhotos, tmp_path: Path, tiny: str) -> None:
    """What is tracked on the way is in the plan, and in its order: otherwise the stages would be counted wrongly."""
    photos = make_photos(tmp_path / "photos", {"red": 12, "green": 12})
    recipe = Recipe().updated(
        {
            "data": {"path": photos},
            "model": {"backbone": tiny, "weights": "none", "image_size": 32},
            "train": {"strategy": "full", "epochs": 2, "batch_size": 8, "augment": "none"},
            "export": {"targets": ["onnx"], "precisions": ["fp32", "int8"]},
        }
    )
    shown: list[str] = []

    def track(items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
        shown.append("epoch" if what.startswith("epoch") else what)
        return items

    pipeline.run(recipe, tmp_path / "out.edgetl", track=track)
    listing = list_photos(photos, DataOptions(), channels=3)
    planned = [part.what for part in parts_of_run(recipe, listing.split_sizes)]
    assert set(shown) <= set(planned)
    places = [planned.index(what) for what in shown]
    assert places == sorted(places)
    assert [part.what for part in parts_of_verify(10, 2)] == ["check photos", "verify", ""]
    assert parts_of_export(recipe.export, 10)[0].what == "check photos"
