"""Backbones side by side: what is made and what is kept, one that fails, and which one is recommended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from edgetl import pipeline
from edgetl.cli.main import main
from edgetl.models.backbones import size_of
from edgetl.models.training_history import Epoch, History
from edgetl.recipe import Recipe
from edgetl.studies import backbone_comparison
from edgetl.studies.backbone_comparison import CompareOptions, compare_backbones
from edgetl.studies.backbone_comparison_views import (
    conclusion_of,
    render_comparison_markdown,
    render_comparison_page,
    render_comparison_terminal,
)
from edgetl.studies.backbone_results import BackboneResult, Comparison, MeasuredVariant
from edgetl.studies.learning_curve import TRANSFER, CurvePoint, LearningCurve
from edgetl.studies.side_by_side import time_side_by_side
from edgetl.verify.inspect import LayerInspection, VariantInspection
from edgetl.verify.options import VerifyOptions
from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import (
    CheckpointError,
    EngineError,
    ExportError,
    MissingDependency,
    OutputError,
    UsageError,
)
from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import FakeSession

MakePhotos = Callable[[Path, Mapping[str, int]], Path]


@pytest.fixture
def photos(make_photos: MakePhotos, tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"red": 10, "green": 10})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    save_file(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), path)
    return path


@pytest.fixture
def words(photos: Path, weights: Path, tmp_path: Path) -> list[str]:
    return [
        *("compare", "--data", str(photos), "--backbones", "squeezenet1_1,mobilenet_v3_small"),
        *("--weights", f"none,mobilenet_v3_small={weights}", "--image-size", "32", "--epochs", "1"),
        *("--batch-size", "8", "--targets", "onnx", "--precisions", "fp32"),
        *("--out", str(tmp_path / "all"), "--json", str(tmp_path / "all.json")),
    ]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Which backbones are made, from which weights and with which strategy; squeezenet1_1 fails. Times are rough."""
    done: list[tuple[str, str, str]] = []
    right = pipeline.run

    def run(recipe: Recipe, out: Path, **more: Any) -> Any:
        done.append((recipe.model.backbone, Path(recipe.model.weights).stem, recipe.train.strategy))
        if recipe.model.backbone == "squeezenet1_1":
            raise ExportError("there is no such operator")
        return right(recipe, out, **more)

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(pipeline, "verify_options", lambda recipe: VerifyOptions(latency_seconds=0.05))
    monkeypatch.setattr(backbone_comparison, "time_side_by_side", partial(time_side_by_side, seconds=0.05))
    return done


@pytest.mark.slow
def test_what_works_is_made_once_and_what_fails_takes_nothing_with_it(
    words: list[str],
    runs: list[tuple[str, str, str]],
    tmp_path: Path,
    photos: Path,
    check_page: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == 1
    assert runs == [("squeezenet1_1", "none", "full"), ("mobilenet_v3_small", "small", "head")]
    assert "FAIL  squeezenet1_1: there is no such operator" in capsys.readouterr().out
    out = tmp_path / "all"
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.html", "comparison.json", "comparison.md", "mobilenet_v3_small.edgetl", "runs.json",
    ]  # fmt: skip
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["schema"] == 1
    failed, made = found["backbones"]
    assert (failed["error"], failed["top1"]) == ("there is no such operator", None)
    assert (made["weights"], made["image_size"], made["error"]) == ("small", 32, None)
    report = json.loads((out / "mobilenet_v3_small.edgetl/report.json").read_text())
    assert made["top1"] == report["reference"]["top1"]
    (variant,) = made["variants"]
    assert variant["p50_ci95"][0] <= variant["p50_ms"] <= variant["p50_ci95"][1]
    assert found["front"] == [{"backbone": "mobilenet_v3_small", "id": "onnx.fp32"}]
    check_page((out / "comparison.html").read_text())
    runs.clear()
    assert main(words) == 1
    assert [name for name, *_ in runs] == ["squeezenet1_1"], "what failed is tried again, what worked is not"
    again = json.loads((tmp_path / "all.json").read_text())["backbones"][1]
    assert {**again, "variants": []} == {**made, "variants": []}
    runs.clear()
    assert main([*words, "--seed", "7"]) == 2
    assert "of another recipe or other photos" in capsys.readouterr().err
    next((photos / "red").iterdir()).unlink()
    assert main(words) == 2
    assert runs == []
    assert main([*words, "--backbones", "squeezenet1_1", "--weights", "none", "--force"]) == 1
    assert [name for name, *_ in runs] == ["squeezenet1_1"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"backbones": ("mobilenet_v9",)}, UsageError, "mobilenet_v2"),
        ({"backbones": ("resnet18", "resnet18")}, UsageError, "named once"),
        ({"backbones": ("resnet18",), "weights": {"resnet50": "none"}}, UsageError, "not compared"),
        ({"backbones": ("resnet18",), "within": 1.0}, UsageError, "within"),
        ({"backbones": ("resnet18",), "weights": {"resnet18": "gone.pth"}}, CheckpointError, r"gone\.pth"),
    ],
)
def test_what_can_be_known_before_is_said_before(
    options: dict[str, Any], error: type[Exception], match: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        compare_backbones(Recipe().updated({"data": {"path": photos}}), tmp_path / "all", CompareOptions(**options))
    assert not (tmp_path / "all").exists()


def test_a_bundle_in_the_way_is_found_before_anything_is_trained(
    words: list[str], runs: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "all" / "mobilenet_v3_small.edgetl").mkdir(parents=True)
    assert main(words) == 2
    (tmp_path / "all" / "runs.json").write_text("[]")
    assert main(words) == 2
    assert runs == []


def test_weights_for_all_and_for_single_ones(words: list[str]) -> None:
    assert main([*words, "--weights", "none,imagenet"]) == 2


def variant(backbone: str, id_: str, top1: float, ms: float, *, passed: bool = True) -> MeasuredVariant:
    return MeasuredVariant(
        backbone, id_, *id_.split("."), bytes=1_000_000, top1=top1, delta=0.0, passed=passed, p50_ms=ms,
        p50_ci95=(ms, ms),
    )  # fmt: skip


@pytest.fixture
def comparison() -> Comparison:
    large = (
        variant("large", "onnx.fp32", 0.90, 9.0),
        variant("large", "onnx.int8", 0.895, 4.0),
        variant("large", "tflite.int8", 0.894, 3.5),
    )
    small = (
        variant("small$x$", "onnx.fp32", 0.88, 3.0),
        variant("small$x$", "onnx.int8", 0.86, 1.0),
        variant("small$x$", "tflite.int8", 0.90, 0.5, passed=False),
    )
    results = (
        BackboneResult("large", "imagenet", "head", None, "large.edgetl", 224, 9_000_000, 300_000_000, 0.9),
        BackboneResult("small$x$", "none", "full", None, "small.edgetl", 96, 1_000_000, 50_000_000, 0.88),
        BackboneResult("odd", "none", "full", error="an image | too small"),
    )
    results = (replace(results[0], variants=large), replace(results[1], variants=small), results[2])
    return Comparison("dots", 200, "test", 1, 0.01, {"processor": "Some CPU", "cores": 2}, results, ("noise",))


def test_the_recommendation_is_the_fastest_of_those_accurate_enough_that_passed(comparison: Comparison) -> None:
    assert comparison.recommended is not None
    assert comparison.recommended.name == "large tflite.int8"
    assert conclusion_of(comparison) == (
        "Take large tflite.int8: 89.4 % at 3.50 ms, the fastest within 1 points of the best "
        "(large onnx.fp32, 90.0 % at 9.00 ms)."
    )
    wider = replace(comparison, within=0.02)
    assert wider.recommended is not None
    assert wider.recommended.name == "small$x$ onnx.fp32"
    strict = replace(comparison, within=0.0)
    assert conclusion_of(strict) == "Take large onnx.fp32: 90.0 % at 9.00 ms, the fastest of the most accurate."
    assert conclusion_of(replace(comparison, backbones=comparison.backbones[2:])).startswith("No variant passed")


def test_the_front_is_of_all_backbones(comparison: Comparison) -> None:
    assert [measured.name for measured in comparison.front] == ["small$x$ tflite.int8"]
    slower = replace(comparison.backbones[1], variants=comparison.backbones[1].variants[:2])
    backbones = (comparison.backbones[0], slower)
    assert [measured.name for measured in replace(comparison, backbones=backbones).front] == [
        "small$x$ onnx.int8", "small$x$ onnx.fp32", "large tflite.int8", "large onnx.int8", "large onnx.fp32",
    ]  # fmt: skip


def test_the_page_the_table_and_the_markdown(comparison: Comparison, check_page: Callable[[str], None]) -> None:
    pytest.importorskip("matplotlib")
    page = render_comparison_page(comparison)
    check_page(page)
    assert "<h2>top-1 against latency</h2>" in page
    assert "mAP against latency" in render_comparison_page(replace(comparison, quality="mAP"))
    assert "On the front: small$x$ tflite.int8: 0.50 ms, 90.0 %." in page
    assert page.count(">recommended<") == 1
    assert "odd failed: an image | too small" in page
    table = render_comparison_terminal(comparison).splitlines()
    assert table[3].split() == [
        *("large", "9.00", "300", "224", "90.0", "89.5", "4.00", "int8", "3.50", "int8", "1.00", "imagenet,", "head"),
    ]  # fmt: skip
    assert "failed" in table[5]
    markdown = render_comparison_markdown(comparison)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "- odd failed: an image \\| too small" in markdown
    nothing = replace(comparison, backbones=comparison.backbones[2:])
    check_page(render_comparison_page(nothing))


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    comparison = Comparison("dots", 8, "val", 1, 0.01, {"load": nan}, (BackboneResult("a", "none", "full", top1=nan),))
    curve = LearningCurve("dots", "a", "head", None, 8, "val", (CurvePoint(TRANSFER, 1.0, 4, 0, nan, 1, inf, ""),))
    history = History((Epoch(1, nan, inf, 0.5, None, 1.0),))
    layers = LayerInspection("b", 8, nan, (VariantInspection("onnx.int8", sqnr_db=-inf),))
    for text in (comparison.to_json(), curve.to_json(), history.to_json(), layers.to_json()):
        assert "null" in json.dumps(parse(text))


def test_models_take_turns_and_one_that_fails_is_left_out() -> None:
    image, logits = TensorSpec("image", "uint8", (1, 2, 2, 3), "NHWC"), TensorSpec("logits", "float32", (1, 2))

    def session(compute: Callable[[Any], Any]) -> Callable[[], FakeSession]:
        return lambda: FakeSession((image,), (logits,), compute)

    answer, asked = {"logits": np.zeros((1, 2), np.float32)}, []

    def slow(feeds: Any) -> Any:
        asked.append(feeds["image"])
        time.sleep(0.002)
        return answer

    def failing(feeds: Any) -> Any:
        raise EngineError("it gave up")

    def missing() -> FakeSession:
        raise MissingDependency("openvino", needed_for="it", extra="openvino")

    one, other = (np.full((1, 2, 2, 3), value, np.uint8) for value in (1, 2))
    contenders = {
        "quick": (session(lambda feeds: answer), {"image": one}),
        "slow": (session(slow), {"image": other}),
        "failing": (session(failing), {"image": one}),
        "missing": (missing, {"image": one}),
    }
    found, _ = time_side_by_side(contenders, seconds=0.05)
    assert set(found) == {"quick", "slow"}
    assert found["quick"][0] < 1.0 < 2.0 <= found["slow"][0]
    assert all(image is other for image in asked), "each one has its own image"


def test_parameters_and_multiply_accumulates_are_the_published_ones() -> None:
    published = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta
    params, macs = size_of("mobilenet_v2", 1000, 224)
    assert params == published["num_params"]
    assert macs / 1e9 == pytest.approx(published["_ops"], abs=5e-4)


def test_a_bundle_is_not_made_where_there_is_no_folder(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "all").write_bytes(b"")
    with pytest.raises(OutputError):
        compare_backbones(
            Recipe().updated({"data": {"path": tmp_path / "photos"}, "model": {"weights": "none", "image_size": 32}}),
            tmp_path / "all",
            CompareOptions(("resnet18",)),
        )
