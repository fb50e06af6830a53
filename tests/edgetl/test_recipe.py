from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.data.augmentation import Augmentation, AugmentOptions
from edgetl.recipe import (
    MADE_FOR,
    DataSection,
    ExportSection,
    ModelOptions,
    Recipe,
    TrainOptions,
    VerifySection,
    read_recipe,
)
from edgetl.tasks import task_of
from edgetl_runtime.errors import OutputError, UsageError


def read(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "r.toml").write_text(text)
    return read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe().updated(task_of("classification").demo().recipe, where="the demo"),
        Recipe(
            data=DataSection(path=Path("photos/mine"), val=Path("more"), val_fraction=0.1, seed=3, skip_bad=True),
            model=ModelOptions("efficientnet_b0", "weights/w.pth", 160),
            train=TrainOptions("last:2", epochs=3, lr=1.0, weight_decay=0.0, imbalance="none", patience=2),
            export=ExportSection(("onnx",), (), 10),
            augment=AugmentOptions(area=(0.5, 1.0), mirror=0.0, outside="edge"),
            verify=VerifySection(Path("gate.toml"), 4),
        ),
    ],
)
def test_a_recipe_comes_back_as_it_was(tmp_path: Path, recipe: Recipe) -> None:
    recipe.save(tmp_path / "r.toml")
    assert read_recipe(tmp_path / "r.toml") == recipe


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    recipe = read(tmp_path, '[train]\nstrategy = "full"\nlr = 1\n')
    assert recipe == Recipe(train=TrainOptions("full", lr=1.0))
    assert isinstance(recipe.train.lr, float)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trian]\nepochs = 3", r"r\.toml: unknown section \[trian\](?s:.*)did you mean 'train'"),
        ("[train]\nepoch = 3", r"r\.toml: \[train\] unknown key 'epoch'(?s:.*)did you mean 'epochs'"),
        ("train = 3", "train is a section"),
        ('[train]\nepochs = "3"', "epochs must be a whole number, not '3'"),
        ("[train]\nepochs = true", "epochs must be a whole number"),
        ("[train]\nlr = false", "lr must be a number"),
        ("[train]\ncompile = 1", "compile must be true or false"),
        ("[model]\nbackbone = 2", "backbone must be a string"),
        ("[data]\npath = 2", "path must be a path"),
        ('[export]\ntargets = "onnx"', "targets must be a list of strings"),
        ("[train]\nepochs = 0", r"\[train\] epochs = 0 makes no sense"),
        ("[augment]\nflips = 1.0", r"\[augment\] unknown key 'flips'(?s:.*)did you mean 'flip'"),
        ("[augment]\nmirror = 2.0", r"\[augment\] mirror = 2.0 makes no sense"),
        ("[augment]\nscale = 1.0", "scale must be a list of numbers"),
        ('[augment]\nscale = ["1", "2"]', "scale must be a list of numbers"),
        ("[augment]\nscale = [1.0]", "scale = .* makes no sense"),
        ("[train", "cannot read the recipe"),
        ("schema = 2", "has schema 2, this edgetl reads 1"),
        ('schema = "new"', "has schema 'new'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(tmp_path, text)
    with pytest.raises(UsageError, match="cannot read"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "last:0"},
        {"strategy": "stride:0"},
        {"strategy": "heads"},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"backbone_lr_ratio": 2.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"warmup": 1.0},
        {"patience": 0},
        {"augment": "flip"},
        {"device": "tpu"},
        {"precision": "int8"},
        {"imbalance": "weight"},
        {"layer_decay": 1.5},
        {"mixup": -0.1},
        {"ema": 1.0},
        {"dropout": 1.0},
        {"teacher_weight": 2.0},
        {"temperature": 0.0},
        {"batch_norm": "eval"},
        {"accumulate": 0},
        {"strategy": "head-then-head"},
        {"strategy": "last:" + "9" * 5000},
        {"lr": float("inf")},
        {"lr": 1e9},
        {"epochs": 10**18},
        {"epochs": -1},
        {"batch_size": 10**9},
        {"accumulate": 10**18},
        {"patience": 10**18},
        {"hidden": 10**9},
        {"weight_decay": float("inf")},
        {"mixup": float("inf")},
        {"cutmix": 1e308},
        {"temperature": float("inf")},
        {"seed": 2**32},
    ],
)
def test_values_without_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="makes no sense") as caught:
        Recipe().updated({"train": values})
    assert caught.value.fix


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"image_size": -5}),
        ("model", {"image_size": 0}),
        ("model", {"image_size": 10**9}),
        ("model", {"channels": 10**6}),
        ("model", {"channels": 0}),
        ("data", {"seed": -1}),
        ("data", {"seed": 2**62}),
        ("data", {"val_fraction": float("nan")}),
        ("data", {"val_fraction": 20.0}),
        ("data", {"min_per_class": -3}),
        ("export", {"max_drop": 1.0}),
        ("export", {"max_drop": 0.5}),
        ("export", {"max_drop": -0.01}),
        ("export", {"calibration_samples": 10**12}),
        ("export", {"distill_epochs": 10**18}),
        ("verify", {"threads": 0}),
        ("verify", {"threads": 10**9}),
    ],
)
def test_other_sections_refuse_what_makes_no_sense_too(section: str, values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=rf"\[{section}\] {next(iter(values))} = \S+ makes no sense") as caught:
        Recipe().updated({section: values})
    assert caught.value.fix


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), -1.0])
def test_distilling_ends(minutes: float) -> None:
    with pytest.raises(UsageError, match="distill_minutes"):
        ExportSection(distill_minutes=minutes)


def test_a_drop_in_percent_is_told_as_a_share(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r\.toml: \[export\] max_drop = 1 makes no sense") as caught:
        read(tmp_path, "[export]\nmax_drop = 1\n")
    assert caught.value.fix == "a share of 1: write 0.01"


def test_the_command_line_goes_over_the_recipe() -> None:
    recipe = Recipe().updated({"data": {"path": Path("a"), "seed": 4}, "export": {"targets": ("onnx",)}})
    again = recipe.updated({"data": {"seed": 5}, "model": {"image_size": None}})
    assert (again.data.path, again.data.seed, again.export.targets) == (Path("a"), 5, ("onnx",))
    assert recipe.data.seed == 4


def test_strategies_say_how_many_stages_they_train() -> None:
    names = ("head", "last:3", "full", "head-then-last:2", "head-then-full", "gradual", "stride:8")
    assert [TrainOptions(s).trained_stages for s in names] == [0, 3, None, 2, None, None, None]
    assert [TrainOptions(s).trained_stride for s in names] == [None] * 6 + [8]
    assert [TrainOptions(s).head_first for s in names] == [True, False, False, True, True, True, False]


def test_a_recipe_changes_fields_of_a_preset(tmp_path: Path) -> None:
    recipe = read(tmp_path, '[train]\naugment = "shift"\n[augment]\nscale = [1, 1.5]\nmirror = 0.25\n')
    assert recipe.augment.on(recipe.train.augment) == Augmentation(
        rotate=12.0, scale=(1.0, 1.5), shift=0.1, mirror=0.25, outside="black"
    )


def test_a_recipe_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Recipe().save(tmp_path / "no" / "r.toml")


def test_for_a_device_fills_in_what_is_not_given_beside_it(tmp_path: Path) -> None:
    for name, picks in MADE_FOR.items():
        export = Recipe().updated({"export": {"for": name}}).export
        assert {"targets": list(export.targets), "precisions": list(export.precisions), "io": export.io} == {
            "io": "float",
            **picks,
        }
        assert export.made_for == name
    own = Recipe().updated({"export": {"for": "x86", "precisions": ["int8"]}}).export
    assert (own.targets, own.precisions) == (("onnx", "openvino"), ("int8",))
    later = Recipe().updated({"export": {"for": "mcu"}}).updated({"export": {"io": "float", "targets": ["onnx"]}})
    assert (later.export.targets, later.export.io) == (("onnx",), "float")
    later.save(tmp_path / "recipe.toml")
    assert read_recipe(tmp_path / "recipe.toml") == later
    with pytest.raises(UsageError, match="for = 'raspbery-pi' makes no sense"):
        Recipe().updated({"export": {"for": "raspbery-pi"}})
