"""Networks of one's own: from a file of code, from memory, as weights have them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import edgetl.models.sources as sources
from edgetl import pipeline
from edgetl.models.backbones import build, head_of, preset
from edgetl.models.checkpoint import Checkpoint, open_checkpoint
from edgetl.models.options import ModelOptions
from edgetl.models.sources.opening import SourceOptions, open_source, reopened
from edgetl.models.sources.own import find_head
from edgetl.models.sources.own_code import remember
from edgetl.recipe import Recipe
from edgetl_runtime.errors import CheckpointError, ExportError, UsageError
from edgetl_runtime.manifest import Label, Normalize
from tests.edgetl.models.sources.own_networks import Own, fixed

FILE = Path(__file__).with_name("own_networks.py")
HALF = Normalize((0.5,), (0.5,))
SAID = SourceOptions(image_size=32, normalize=HALF)


@pytest.fixture(autouse=True)
def nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_ALLOWED", set())


def test_a_function_is_opened_with_its_own_outputs() -> None:
    opened = open_source(f"{FILE}:fixed", SAID)
    assert isinstance(opened, Checkpoint)
    assert [label.id for label in opened.labels] == ["0", "1", "2"]
    assert opened.normalize == Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert opened.preprocess.crop == (32, 32)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.build()(image), fixed().eval()(image))


def test_a_path_in_python_names_a_function_too() -> None:
    assert len(open_source(Path(f"{FILE}:fixed"), SAID).labels) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_one_of_float32(dtype: torch.dtype) -> None:
    network = fixed().eval().to(dtype)
    opened = open_source(network, SAID)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.build()(image), copy.deepcopy(network).float()(image))
    assert next(network.parameters()).dtype == dtype  # the user's own stays


@pytest.mark.parametrize(
    "network", [lambda: open_source(f"{FILE}:probable", SAID), lambda: build(f"{FILE}:probable", 3)]
)
def test_a_network_that_gives_probabilities_is_refused(network: Callable[[], object]) -> None:
    sources.allow_code(f"{FILE}:probable")
    with pytest.raises(UsageError, match="probable gives probabilities") as caught:
        network()
    assert "network[:-1]" in str(caught.value.fix)


def test_weights_are_those_of_the_file_and_labels_as_many(tmp_path: Path) -> None:
    network = Own(5)
    for name, state in {
        "plain": network.state_dict(),
        "wrapped": {f"module.{key}": value for key, value in network.state_dict().items()},
    }.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        opened = open_source(
            f"{FILE}:of_any_number",
            SourceOptions(image_size=32, normalize=HALF, weights=tmp_path / f"{name}.safetensors"),
        )
        assert len(opened.labels) == 5
        image = torch.rand(1, 3, 32, 32)
        assert torch.equal(opened.build()(image), network.eval()(image))
    with pytest.raises(CheckpointError, match=r"do not fit .*:headless: 0\.weight is missing"):
        open_source(
            f"{FILE}:headless", SourceOptions(image_size=32, normalize=HALF, weights=tmp_path / "plain.safetensors")
        )
    with pytest.raises(UsageError, match="gives 3 logits, but there are 2 labels"):
        open_source(f"{FILE}:fixed", SourceOptions(image_size=32, normalize=HALF, labels=["a", "b"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SourceOptions(normalize=HALF), "images of which size"),
        (SourceOptions(image_size=32), "how does it take pixels"),
        (SourceOptions(image_size=32, normalize=Normalize((0.1, 0.2), (1.0, 1.0))), "mean and std are of 2 channels"),
        (SourceOptions(image_size=32, normalize=HALF, channels=1), r"cannot take \[2, 1, 32, 32\]: RuntimeError"),
    ],
)
def test_what_is_not_said_is_asked_for(options: SourceOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"{FILE}:fixed", options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.py:build", "there is no file nothing.py"),
        (f"{FILE}:missing", "has no function 'missing'"),
        (f"{FILE}:text", "has no function 'text'"),
        (f"{FILE}:two_outputs", "gives tuple, no logits"),
        (f"{FILE}:Own", r"cannot be called with no arguments: .*labels"),
        (f"{FILE}:of_labels", r"(?s)cannot be called with no arguments: .*fix: --labels FILE says how many"),
        (f"{FILE}:one_row", r"one_row gives \[1, 6\] for 2 images, no logits"),
        (f"{FILE}:failing", r"failing fails: RuntimeError: weights are elsewhere"),
        (f"{FILE}:leaving", r"leaving fails: SystemExit: 3"),
        (f"{FILE}:a_program", r"a_program is TorchScript, a program without layers"),
        (f"{FILE}:with_numbers", r"with_numbers has weights that are no tensors.*: _extra_state"),
    ],
)
def test_what_is_no_network_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(name, SAID)


def test_code_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(UsageError, match="cannot be run: ModuleNotFoundError"):
        open_source(f"{tmp_path}/broken.py:build", SAID)


def test_the_head_is_found_named_and_replaced() -> None:
    name = f"{FILE}:of_any_number"
    ModelOptions(backbone=name)  # a person names it
    model = build(name, 7, image_size=32)
    assert head_of(model)[0] == "decide"
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    memory = remember(fixed())
    assert build(memory, 4, image_size=32)(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    example = torch.zeros(2, 3, 32, 32)
    assert find_head(fixed(), example, "hidden") == "hidden"
    with pytest.raises(UsageError, match="no linear layer called 'gone'"):
        find_head(fixed(), example, "gone")
    ModelOptions(backbone=f"{FILE}:headless")
    with pytest.raises(UsageError, match=r"the last layer of .* was not found"):
        build(f"{FILE}:headless", 7, image_size=32)
    assert build(f"{FILE}:headless", 4, image_size=32)(example).shape == (2, 4)  # as many as it has


def test_a_preset_is_the_usual_crop() -> None:
    spec, normalize = preset(remember(fixed()), (32, 64), normalize=HALF)
    assert (spec.crop, spec.resize, spec.mode) == ((32, 64), (37, 73), "crop")
    assert normalize.mean == (0.5, 0.5, 0.5)
    assert preset(remember(fixed()), 32, normalize=HALF, mode="stretch")[0].mode == "stretch"


def test_code_that_a_checkpoint_names_is_not_run(tmp_path: Path) -> None:
    name = f"{FILE}:fixed"
    open_source(name, SAID).write(tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["source"] == "own"
    sources._ALLOWED.clear()
    assert reopened(tmp_path) is None
    with pytest.raises(CheckpointError, match="code is only run when you name it yourself") as caught:
        Checkpoint.load(tmp_path).build()
    assert f"--backbone {name}" in str(caught.value.fix)
    opened = open_checkpoint(tmp_path, backbone=name)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(opened.build()(image), fixed().eval()(image))
    with pytest.raises(CheckpointError, match="memory of the program that trained it"):
        Checkpoint.of(nn.Linear(1, 1), backbone="memory:Gone-9", labels=(Label("a", "a"),) * 2,
                      preprocess=opened.preprocess, normalize=opened.normalize).build()  # fmt: skip


def test_a_network_without_a_graph_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trains(*_: object, **__: object) -> None:
        pytest.fail("it trains what cannot be exported")

    monkeypatch.setattr(pipeline, "train", trains)
    monkeypatch.setattr(pipeline, "look_at_photos", lambda recipe: None)
    name = f"{FILE}:by_values"
    sources.allow_code(name)
    model = {"backbone": name, "image_size": 32, "mean": [0.5], "std": [0.5], "weights": "none"}
    recipe = Recipe().updated({"model": model, "train": {"strategy": "full"}})
    with pytest.raises(ExportError, match="cannot be traced") as caught:
        pipeline.run(recipe, tmp_path / "out")
    assert "shapes alone" in str(caught.value.fix)
