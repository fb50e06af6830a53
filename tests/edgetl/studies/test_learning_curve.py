"""The learning curve: which points are trained, which are kept, and what is said of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from edgetl import pipeline
from edgetl.cli.main import main
from edgetl.data.dataset import Dataset, Sample, share_of
from edgetl.models.backbones import preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.training_history import Epoch, History
from edgetl.recipe import Recipe
from edgetl.studies.learning_curve import SCRATCH, TRANSFER, CurveOptions, CurvePoint, LearningCurve, learning_curve
from edgetl.studies.learning_curve_views import render_curve_page, render_curve_terminal
from edgetl_export.progress import Track
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.manifest import Label

MakePhotos = Callable[[Path, Mapping[str, int]], Path]


def samples(n: int, labels: int = 2) -> tuple[Sample, ...]:
    image = np.zeros((8, 8, 3), np.uint8)
    return tuple(Sample(image + i, i % labels, f"{i}") for i in range(n))


@pytest.fixture
def data() -> Dataset:
    return Dataset("dots", (Label("a", "a"), Label("b", "b")), samples(40), samples(10))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    save_file(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), path)
    return path


@pytest.fixture
def recipe(weights: Path) -> Recipe:
    model = {"backbone": "mobilenet_v3_small", "weights": str(weights), "image_size": 32}
    return Recipe().updated({"model": model})


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """In the place of training: what would be trained (weights, photos, seed), the accuracy from its size."""
    done: list[tuple[str, int, int]] = []

    def train(recipe: Recipe, *, dataset: Dataset, track: Track) -> tuple[Dataset, Any]:
        scratch = recipe.model.weights == "none"
        done.append(("none" if scratch else "file", len(dataset.train), recipe.train.seed))
        top1 = len(dataset.train) / (100 if scratch else 50)
        history = History((Epoch(1, 1.0, 1.0, top1, None, 1.0),))
        return dataset, SimpleNamespace(history=history, seconds=1.5)

    monkeypatch.setattr(pipeline, "train", train)
    return done


def test_a_share_is_of_each_label_and_a_smaller_one_is_in_a_larger() -> None:
    some = (*samples(60, 3), *[Sample(np.zeros((8, 8, 3), np.uint8), 3, "rare") for _ in range(2)])
    shares = [share_of(some, fraction, seed=5) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert [Counter(sample.label for sample in share) for share in shares] == [
        {0: 1, 1: 1, 2: 1, 3: 1}, {0: 2, 1: 2, 2: 2, 3: 1}, {0: 10, 1: 10, 2: 10, 3: 1}, {0: 20, 1: 20, 2: 20, 3: 2},
    ]  # fmt: skip
    for smaller, larger in pairwise(shares):
        assert {id(sample) for sample in smaller} <= {id(sample) for sample in larger}
    assert share_of(some, 0.5, seed=6) != shares[2]
    with pytest.raises(UsageError, match="above 0"):
        share_of(some, 0.0)


def test_points_are_trained_once(
    recipe: Recipe, data: Dataset, trainings: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    out = tmp_path / "curve"
    few = CurveOptions(fractions=(0.5, 0.1), seeds=2, scratch_epochs=3)
    curve = learning_curve(recipe, out, few, dataset=data)
    assert trainings == [
        ("file", 4, 0), ("none", 4, 0), ("file", 4, 1), ("none", 4, 1),
        ("file", 20, 0), ("none", 20, 0), ("file", 20, 1), ("none", 20, 1),
    ]  # fmt: skip
    assert [(mean.n, mean.top1, mean.std) for mean in curve.means(TRANSFER)] == [(4, 0.08, 0.0), (20, 0.4, 0.0)]
    trainings.clear()
    assert learning_curve(recipe, out, few, dataset=data) == curve
    assert trainings == []
    more = CurveOptions(fractions=(0.1, 0.5, 1.0), seeds=2, scratch_epochs=3)
    assert learning_curve(recipe, out, more, dataset=data).means(SCRATCH)[-1].n == 40
    assert [(start, n) for start, n, _ in trainings] == [("file", 40), ("none", 40)] * 2
    trainings.clear()
    learning_curve(recipe, out, CurveOptions((0.1, 0.5), 2, scratch_epochs=4), dataset=data)
    assert {start for start, *_ in trainings} == {"none"}, "another number of epochs from scratch"
    trainings.clear()
    learning_curve(recipe.updated({"train": {"weight_decay": 0.5}}), out, CurveOptions((0.1,), 1, 0), dataset=data)
    assert trainings == [("file", 4, 0)], "another recipe"
    trainings.clear()
    others = Dataset(data.name, data.labels, samples(40)[::-1][:30], data.val)
    learning_curve(recipe, out, CurveOptions((0.1,), 1, 0), dataset=others)
    assert len(trainings) == 1, "other photos"
    trainings.clear()
    assert learning_curve(recipe, out, few, dataset=data) == curve, "and what was trained first is still there"
    assert trainings == []


def test_every_point_has_its_own_board_and_watching_is_no_other_training(
    recipe: Recipe,
    data: Dataset,
    trainings: list[tuple[str, int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boards: list[str | None] = []
    right = pipeline.train

    def train(recipe: Recipe, **more: Any) -> Any:
        boards.append(recipe.train.tensorboard)
        return right(recipe, **more)

    monkeypatch.setattr(pipeline, "train", train)
    watched = recipe.updated({"train": {"tensorboard": "runs"}})
    learning_curve(watched, tmp_path / "curve", CurveOptions((0.1, 0.5), 1, 2), dataset=data)
    assert boards == [
        str(Path("runs") / name) for name in ("transfer-0.1-0", "scratch-0.1-0", "transfer-0.5-0", "scratch-0.5-0")
    ]
    learning_curve(recipe, tmp_path / "curve", CurveOptions((0.1, 0.5), 1, 2), dataset=data)
    assert len(trainings) == 4


def test_weights_that_changed_under_their_name_are_other_weights(
    recipe: Recipe, data: Dataset, trainings: list[tuple[str, int, int]], tmp_path: Path, weights: Path
) -> None:
    one = CurveOptions((0.1,), 1, 0)
    learning_curve(recipe, tmp_path / "curve", one, dataset=data)
    weights.write_bytes(weights.read_bytes() + b" ")
    learning_curve(recipe, tmp_path / "curve", one, dataset=data)
    assert len(trainings) == 2


def test_what_was_finished_before_an_interruption_is_kept(
    recipe: Recipe,
    data: Dataset,
    trainings: list[tuple[str, int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = pipeline.train

    def interrupted(recipe: Recipe, *, dataset: Dataset, track: Track) -> Any:
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return right(recipe, dataset=dataset, track=track)

    options = CurveOptions((0.1, 0.5), 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learning_curve(recipe, tmp_path / "curve", options, dataset=data)
    assert len(json.loads((tmp_path / "curve/points.json").read_text())["points"]) == 3
    learning_curve(recipe, tmp_path / "curve", options, dataset=data)
    assert len(trainings) == 4


def test_a_test_split_is_judged_and_not_the_one_that_chose_the_epoch(
    recipe: Recipe, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torchvision.models.mobilenet_v3_small(num_classes=2)
    with torch.no_grad():
        network.classifier[-1].weight.zero_()
        network.classifier[-1].bias.copy_(torch.tensor([1.0, 0.0]))  # whatever it sees is an "a"
    preprocess, normalize = preset("mobilenet_v3_small", 32)
    checkpoint = Checkpoint.of(
        network, backbone="mobilenet_v3_small", labels=data.labels, preprocess=preprocess, normalize=normalize
    )
    trained = SimpleNamespace(
        history=History((Epoch(1, 1.0, 1.0, 0.1, None, 1.0),)), seconds=1.0, checkpoint=checkpoint
    )
    monkeypatch.setattr(pipeline, "train", lambda recipe, *, dataset, track: (dataset, trained))
    judged = replace(data, test=(*samples(6), *samples(1), *samples(1)))
    curve = learning_curve(recipe, tmp_path / "curve", CurveOptions((1.0,), 1, 0), dataset=judged)
    assert (curve.split, curve.held_out, curve.points[0].top1) == ("test", 8, 5 / 8)


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({"model": {"weights": "none"}}, {}, "no transfer"),
        ({}, {"fractions": (0.0,)}, "fractions"),
        ({}, {"fractions": ()}, "fractions"),
        ({}, {"seeds": 0}, "1 to 1000 seeds"),
    ],
)
def test_options_without_sense(
    changes: dict[str, Any], options: dict[str, Any], match: str, recipe: Recipe, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=match):
        learning_curve(recipe.updated(changes), tmp_path / "curve", CurveOptions(**options), dataset=data)


def test_folders_that_are_something_else_are_left_alone(recipe: Recipe, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=r"no points\.json"):
        learning_curve(recipe, tmp_path / "holiday", dataset=data)
    point = (
        '{"start": "transfer", "fraction": 1, "n": 4, "seed": 0, "top1": "all", "epochs": 1, "seconds": 1, "key": ""}'
    )
    for text in ("{}", "[]", '{"points": {}}', '{"points": NaN}', f'{{"points": [{point}]}}', "[" * 100_000):
        (tmp_path / "holiday" / "points.json").write_text(text)
        with pytest.raises(OutputError, match="cannot read"):
            learning_curve(recipe, tmp_path / "holiday", dataset=data)


def curve_of(transfer: dict[int, tuple[float, ...]], scratch: dict[int, tuple[float, ...]]) -> LearningCurve:
    points = tuple(
        CurvePoint(start, 0.0, n, seed, top1, 1, 1.0, "")
        for start, sizes in ((TRANSFER, transfer), (SCRATCH, scratch))
        for n, top1s in sizes.items()
        for seed, top1 in enumerate(top1s)
    )
    return LearningCurve("dots", "mobilenet_v2", "head", None, 400, "val", points)


def test_conclusions() -> None:
    curve = curve_of({50: (0.7, 0.7), 200: (0.8, 0.82)}, {50: (0.3, 0.3), 200: (0.6, 0.7)})
    reaches, transfer, scratch = curve.conclusions()
    assert reaches == "transfer with 50 photos (70.0%) reaches what from scratch reaches with 200 (65.0%)"
    assert transfer == "transfer: from 50 to 200 photos +5.5 points for each doubling: more photos help"
    assert scratch.endswith("+17.5 points for each doubling: more photos help")
    better = curve_of({50: (0.7, 0.7)}, {50: (0.9, 0.9)})
    assert better.conclusions() == ["from scratch with 50 photos (90.0%) is better than transfer at its best (70.0%)"]
    # The standard error of each mean is 0.02 / sqrt(2) / sqrt(2); both together, twice, for one doubling: 2.8 points.
    flat = curve_of({100: (0.80, 0.82), 200: (0.82, 0.84)}, {})
    assert flat.conclusions() == [
        "transfer: from 100 to 200 photos +2.0 points for each doubling, which is within noise "
        "(twice the standard error is 2.8)"
    ]
    # One training each: sqrt(0.9 * 0.1 / 400) = 0.015 for both.
    single = curve_of({100: (0.9,), 200: (0.9,)}, {})
    assert "twice the standard error is 4.2" in single.conclusions()[0]


def test_the_page_and_the_table(check_page: Callable[[str], None]) -> None:
    pytest.importorskip("matplotlib")
    curve = curve_of({50: (0.7, 0.72), 200: (0.8,)}, {50: (0.3, 0.3)})
    page = render_curve_page(curve)
    check_page(page)
    assert "top-1 against training photos" in page
    assert "mIoU against training photos" in render_curve_page(replace(curve, quality="mIoU"))
    assert "transfer: 50 photos 71.0 %; 200 photos 80.0 %. from scratch: 50 photos 30.0 %." in page
    assert "<td>71.0 ± 1.4</td><td>30.0 ± 0.0</td>" in page
    assert [line.split() for line in render_curve_terminal(curve).splitlines()[2:5]] == [
        ["photos", "transfer", "%", "from", "scratch", "%"],
        ["50", "71.0", "±", "1.4", "30.0", "±", "0.0"],
        ["200", "80.0", "-"],
    ]


@pytest.mark.slow
def test_the_command_trains_and_leaves_a_page(
    make_photos: MakePhotos, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos(tmp_path / "photos", {"red": 12, "green": 12})
    words = [
        *("learning-curve", "--data", str(photos), "--backbone", "mobilenet_v3_small", "--weights", str(weights)),
        *("--image-size", "32", "--epochs", "2", "--fractions", "0.5,1", "--seeds", "1", "--from-scratch-epochs", "1"),
        *("--out", str(tmp_path / "curve"), "--json", str(tmp_path / "curve.json")),
    ]
    assert main(words) == 0
    found = json.loads((tmp_path / "curve.json").read_text())
    assert found["schema"] == 1
    assert [mean["n"] for mean in found["means"]["transfer"]] == [mean["n"] for mean in found["means"]["scratch"]]
    assert len(found["points"]) == 4
    assert all(0 <= point["top1"] <= 1 and point["seconds"] > 0 for point in found["points"])
    assert sorted(path.name for path in (tmp_path / "curve").iterdir()) == [
        "learning-curve.html", "learning-curve.json", "points.json",
    ]  # fmt: skip
    assert capsys.readouterr().err.count("photos, seed 0:") == 4
    assert main(words) == 0
    assert "seed 0:" not in capsys.readouterr().err
    assert main([*words[:-4], "--fractions", "half", *words[-4:]]) == 2


@pytest.mark.parametrize(("size", "said"), [(96, "96 pixels"), ((96, 160), "96x160 pixels")])
def test_a_page_says_the_size_as_people_write_it(size: int | tuple[int, int], said: str) -> None:
    curve = replace(curve_of({10: (0.5,), 20: (0.6,)}, {}), image_size=size)
    assert said in render_curve_page(curve)
    assert json.loads(curve.to_json())["image_size"] == (list(size) if isinstance(size, tuple) else size)
