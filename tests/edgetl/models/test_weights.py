from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import edgetl.models.reaching as reaching
from edgetl.models.backbones import build, head_of
from edgetl.models.weight_files import read_state
from edgetl.models.weights import (
    check_weights_available,
    fit,
    infer_num_classes,
    load_weights,
    parse_weights,
    put_back,
)
from edgetl_runtime.errors import CheckpointError

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(build(NAME, 7).state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_fills_the_model(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    model = build(NAME, 7)
    assert load_weights(model, NAME, file) == f"w{suffix}: loaded whole"
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_head_of_another_size_is_replaced_and_said(state: dict[str, torch.Tensor]) -> None:
    model = build(NAME, 3)
    fresh = head_of(model)[1].weight.detach().clone()
    assert fit(model, state, NAME, where="x") == "head of 7 outputs replaced by one of 3"
    assert torch.equal(head_of(model)[1].weight, fresh)
    assert torch.equal(model.state_dict()["features.0.0.weight"], state["features.0.0.weight"])
    with pytest.raises(CheckpointError, match=r"classifier.3.weight is \[7, 1024\], not \[3, 1024\]"):
        fit(build(NAME, 3), state, NAME, where="x", keep_head=True)


def test_half_precision_weights_become_float32(state: dict[str, torch.Tensor]) -> None:
    model = build(NAME, 7)
    fit(
        model,
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        NAME,
        where="",
    )
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(dict(model.state_dict()), state, atol=1e-3, rtol=1e-3)


def test_another_architecture_is_refused_with_the_one_that_fits(state: dict[str, torch.Tensor]) -> None:
    model = build("mobilenet_v2", 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit mobilenet_v2: \S+ is missing") as caught:
        fit(model, state, "mobilenet_v2", where="w.pth")
    assert str(caught.value.fix).endswith("--backbone mobilenet_v3_small")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_of_a_network_with_a_head_of_its_own_are_told_apart() -> None:
    model = build("mobilenet_v2", 7)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("classifier.")}
    state["head.project.0.weight"] = torch.zeros(8, 1280, 1, 1)
    with pytest.raises(CheckpointError, match=r"head\.project\.0\.weight is not part of mobilenet_v2") as caught:
        fit(model, state, "mobilenet_v2", where="masks.safetensors")
    assert "for boxes or masks" in str(caught.value.fix)
    assert "--backbone" not in str(caught.value.fix)


@pytest.mark.slow
def test_a_transformer_takes_weights_of_another_image_size() -> None:
    source = build("vit_b_32", 4, image_size=64).state_dict()
    model = build("vit_b_32", 4, image_size=96)
    assert fit(model, dict(source), "vit_b_32", where="x") == "loaded whole"
    assert model.state_dict()["encoder.pos_embedding"].shape == (1, 10, 768)


def test_a_network_that_asks_for_a_version_is_put_back_without() -> None:
    model, other = build("mnasnet0_5", 4), build("mnasnet0_5", 4)
    with pytest.raises(ValueError, match="version"):
        model.load_state_dict(dict(other.state_dict()))
    put_back(model, dict(other.state_dict()))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "densenet121", "vit_b_32", "mobilenet_v2"])
def test_the_number_of_labels_is_read_from_the_head(name: str) -> None:
    shuffled = dict(sorted(build(name, 11).state_dict().items(), reverse=True))
    assert infer_num_classes(shuffled) == 11
    with pytest.raises(CheckpointError, match="no head"):
        infer_num_classes({"features.0.weight": torch.zeros(3, 3)})


def test_files_that_hold_no_state_dict_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"not a pickle")
    (tmp_path / "b.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (tmp_path / "c.onnx").write_bytes(b"")
    torch.save([1, 2], tmp_path / "d.pt")
    torch.save(build("squeezenet1_1", 2), tmp_path / "e.pt")
    for name in ("a.pth", "b.safetensors", "c.onnx", "d.pt", "e.pt", "missing.pth"):
        with pytest.raises(CheckpointError, match=name) as caught:
            read_state(tmp_path / name)
        assert caught.value.fix


def test_words_and_files() -> None:
    assert parse_weights("imagenet") == "imagenet"
    assert parse_weights("none") == "none"
    assert parse_weights("w/none.pth") == Path("w/none.pth")
    assert load_weights(build(NAME, 2), NAME, "none") == f"{NAME} starts from random weights"


def test_weights_are_asked_for_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_weights_available(NAME, "none")
    with pytest.raises(CheckpointError, match=r"no weights file at .*w\.pth"):
        check_weights_available(NAME, tmp_path / "w.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(reaching.urllib.request, "urlopen", lambda *args, **kwargs: nullcontext(time.sleep(9)))
    monkeypatch.setattr(reaching, "_SECONDS_TO_CONNECT", 0.1)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"download\.pytorch\.org cannot be reached") as caught:
        check_weights_available(NAME, "imagenet")
    assert time.monotonic() - start < 3
    folder = tmp_path / "hub" / "checkpoints"
    assert f"put mobilenet_v3_small-047dcff4.pth into {folder}" in str(caught.value.fix)
    assert "--weights FILE" in str(caught.value.fix)
    folder.mkdir(parents=True)
    (folder / "mobilenet_v3_small-047dcff4.pth").touch()
    check_weights_available(NAME, "imagenet")


def test_imagenet_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = build(NAME, 1000)
    torch.save(published.state_dict(), folder / "mobilenet_v3_small-047dcff4.pth")
    model = build(NAME, 2)
    assert load_weights(model, NAME, "imagenet").endswith("head of 1000 outputs replaced by one of 2")
    assert torch.equal(model.state_dict()["features.0.0.weight"], published.state_dict()["features.0.0.weight"])
    (folder / "mobilenet_v3_small-047dcff4.pth").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="cannot load the ImageNet weights"):
        load_weights(model, NAME, "imagenet")
