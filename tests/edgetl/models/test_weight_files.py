"""Weights as people have them, and what is no weights at all: each taken, or one clear sentence."""

from __future__ import annotations

import argparse
import collections
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgetl.models.backbones import build, head_of
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.torch_files import read_torch_file
from edgetl.models.weight_files import read_state
from edgetl.models.weights import check_weights_available, fit, load_weights, parse_weights
from edgetl_runtime.errors import CheckpointError
from edgetl_runtime.manifest import Label

NAME = "mobilenet_v3_small"
Plain = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return build(NAME, 3)


@pytest.fixture(scope="module")
def state(network: nn.Module) -> Plain:
    return dict(network.state_dict())


def same(found: Plain, state: Plain) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "net.", "network.", "backbone."),
        *("_orig_mod.module.", "module._orig_mod.", "model._orig_mod.", "net.model.module.", "module.module."),
    ],
)
def test_prefixes_in_any_order(tmp_path: Path, state: Plain, prefix: str) -> None:
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth").state, state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".tar", ".PTH"])
def test_endings(tmp_path: Path, state: Plain, suffix: str) -> None:
    torch.save({"state_dict": state}, tmp_path / f"w{suffix}")
    assert same(read_state(tmp_path / f"w{suffix}").state, state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"net": s, "acc": 97.1},
        lambda s: {"model_state": s},
        lambda s: {"weights": s},
        lambda s: {"ema": s, "updates": 5},
        lambda s: {"state_dict_ema": s},
        lambda s: {"epoch": 1, "state_dict": {"model": s}},
        lambda s: {"state_dict": {f"model.{key}": value for key, value in s.items()}, "hyper_parameters": {"lr": 0.1}},
        lambda s: {**{f"module.{key}": value for key, value in s.items()}, "n_averaged": torch.tensor(7)},
        lambda s: {"model": s, "args": argparse.Namespace(lr=1, path=Path("x"))},
        lambda s: {"model": s, "best": np.float64(0.9), "history": np.arange(3)},
        lambda s: {"state_dict": s, "metrics": collections.defaultdict(list, loss=[1.0, 2.0])},
        lambda s: collections.OrderedDict((key, nn.Parameter(value, requires_grad=False)) for key, value in s.items()),
    ],
)
def test_wrappers_and_what_lies_beside(tmp_path: Path, state: Plain, wrap: Callable[[Plain], Any]) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    torch.save(wrap(state), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "w.pth").state, state)
    assert same(read_state(tmp_path / "old.pth").state, state)


def test_an_averaged_network(tmp_path: Path, network: nn.Module, state: Plain) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(network)
    torch.save(averaged.state_dict(), tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth").state, state)


def test_what_was_taken_of_several_is_said(tmp_path: Path, state: Plain) -> None:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"state_dict_ema": other, "state_dict": state}, tmp_path / "w.pth")
    done = load_weights(build(NAME, 3), NAME, tmp_path / "w.pth")
    assert done == "w.pth: state_dict was taken, state_dict_ema left; loaded whole"


def test_two_networks_under_one_name_are_not_merged(tmp_path: Path, state: Plain) -> None:
    both = {f"{prefix}.{key}": value for prefix in ("model", "net") for key, value in state.items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"two networks: model\.features\.0\.0\.weight and net\."):
        read_state(tmp_path / "w.pth")


HEADS: dict[str, tuple[str, Callable[[nn.Linear], nn.Module]]] = {
    "dropout, linear": ("classifier.3", lambda head: nn.Sequential(nn.Dropout(0.2), head)),
    "linear in a sequence": ("classifier.3", lambda head: nn.Sequential(head)),
    "fc": ("fc", lambda head: nn.Sequential(nn.Dropout(), head)),
    "whole block": ("classifier", lambda head: head),
    "deeper": ("classifier", lambda head: nn.Sequential(nn.Identity(), nn.Sequential(nn.Dropout(), head))),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((NAME, kind) for kind in ("dropout, linear", "linear in a sequence")),
        *(("resnet18", "fc"), ("mobilenet_v2", "whole block"), ("efficientnet_b0", "deeper")),
    ],
)
def test_a_linear_head_behind_dropout(tmp_path: Path, name: str, kind: str) -> None:
    original = build(name, 5)
    where, make = HEADS[kind]
    head = head_of(original)[1]
    assert isinstance(head, nn.Linear)
    changed = build(name, 5)
    changed.load_state_dict(original.state_dict())
    changed.set_submodule(where, make(head))
    torch.save(changed.state_dict(), tmp_path / "w.pth")
    checkpoint = Checkpoint.from_weights(tmp_path / "w.pth", backbone=name, image_size=32)
    assert same(checkpoint.state, dict(original.state_dict()))
    assert "was taken for the last layer" in checkpoint.training["loading"]


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 3)),
        nn.Sequential(nn.BatchNorm1d(1024), nn.Linear(1024, 3)),
        nn.Sequential(nn.LayerNorm(1024), nn.Dropout(), nn.Linear(1024, 3)),
    ],
)
def test_another_head_is_refused_and_not_called_another_backbone(network: nn.Module, head: nn.Module) -> None:
    changed = build(NAME, 3)
    changed.set_submodule("classifier.3", head)
    with pytest.raises(CheckpointError, match="does not fit mobilenet_v3_small") as caught:
        fit(build(NAME, 3), dict(changed.state_dict()), NAME, where="w.pth", keep_head=True)
    assert (
        caught.value.fix
        == "its last layers are others than torchvision's: save it with one linear layer called classifier.3"
    )


class Runs:
    """What a hostile file holds: whoever unpickles it calls something."""

    def __init__(self, call: Callable[..., object], *values: object) -> None:
        self.call, self.values = call, values

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.values


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


def _tar(path: Path) -> None:
    (path.parent / "a.txt").write_text("a")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "a.txt", "a.txt")


NO_WEIGHTS: dict[str, tuple[Callable[[Path, nn.Module], object], str]] = {
    "empty": (lambda path, _: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "LFS": (lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "HTML": (lambda path, _: path.write_text("\n <!DOCTYPE html><html>"), r"web page \(HTML"),
    "XML": (lambda path, _: path.write_text("<?xml version='1.0'?><Error/>"), r"web page \(HTML or XML"),
    "JSON": (lambda path, _: path.write_text('{"error": "not found"}'), "text"),
    "gzip": (lambda path, _: path.write_bytes(b"\x1f\x8b\x08\0"), "compressed"),
    "HDF5": (lambda path, _: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
    "zip": (lambda path, _: _zip(path), "damaged, cut off, or not"),
    "tar": (lambda path, _: _tar(path), "tar archive"),
    "noise": (lambda path, _: path.write_bytes(bytes(range(256))), "damaged, cut off, or not"),
    "module": (lambda path, m: torch.save(m, path), r"whole network \(torchvision\.models\.mobilenetv3\.MobileNetV3\)"),
    "module inside": (lambda path, m: torch.save({"model": m, "epoch": 1}, path), "whole network"),
    "old module": (lambda path, m: torch.save(m, path, _use_new_zipfile_serialization=False), "a whole network"),
    "script": (lambda path, m: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path)), "TorchScript"),
    "list": (lambda path, _: torch.save([1, 2], path), "holds no state dict, but list"),
    "no tensors": (lambda path, _: torch.save({"epoch": 3, "lr": 0.1}, path), "holds no state dict: epoch, lr"),
    "eval": (lambda path, _: torch.save(Runs(eval, "1/0"), path), "whole object"),
    "getattr": (lambda path, _: torch.save(Runs(getattr, "x", "upper"), path), "whole object"),
    "system": (lambda path, _: torch.save(Runs(__import__("os").system, "exit 3"), path), "posix.system, which runs"),
    "pickle": (lambda path, _: path.write_bytes(pickle.dumps(Runs(eval, "1/0"))), "damaged, cut off"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weights_gets_one_sentence(tmp_path: Path, network: nn.Module, kind: str) -> None:
    path = tmp_path / "w.pth"
    write, said = NO_WEIGHTS[kind]
    write(path, network)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_state(path)
    assert caught.value.fix
    for advice in ("weights_only", "safe_globals", "arbitrary code", "Weights only load"):
        assert advice not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_cut_off_file_and_a_folder(tmp_path: Path, state: Plain) -> None:
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="damaged, cut off"):
            read_state(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a folder and no checkpoint"):
        check_weights_available(NAME, parse_weights(tmp_path))
    with pytest.raises(CheckpointError, match="is a folder and no checkpoint"):
        read_state(tmp_path)


def test_foreign_objects_are_neither_imported_nor_called(tmp_path: Path) -> None:
    canary, allowed = tmp_path / "canary", set(torch.serialization.get_safe_globals())
    (tmp_path / "source").touch()
    call = Runs(shutil.copyfile, str(tmp_path / "source"), str(canary))
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": call}, tmp_path / "w.pth")
    assert read_state(tmp_path / "w.pth").state.keys() == {"a"}
    assert not canary.exists()
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert isinstance(read_torch_file(tmp_path / "w.pth"), dict)


def test_the_folder_of_a_checkpoint_are_weights_too(tmp_path: Path, state: Plain) -> None:
    torch.save(state, tmp_path / "w.pth")
    labels = tuple(Label(name, name) for name in "abc")
    Checkpoint.from_weights(tmp_path / "w.pth", backbone=NAME, labels=labels).save(tmp_path / "c")
    weights = parse_weights(tmp_path / "c")
    check_weights_available(NAME, weights)
    model = build(NAME, 3)
    assert load_weights(model, NAME, weights) == "model.safetensors: loaded whole"
    assert same(dict(model.state_dict()), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["features.0.0.weight", "classifier.3.bias", "features.1.block.0.1.running_var"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, state: Plain, key: str, value: float) -> None:
    damaged = {name: tensor.clone() for name, tensor in state.items()}
    damaged[key].view(-1)[0] = value
    torch.save(damaged, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"{key} is not finite: 1 of its \d+ values"):
        Checkpoint.from_weights(tmp_path / "w.pth", backbone=NAME)
    with pytest.raises(CheckpointError, match=rf"{key} is not finite"):
        load_weights(build(NAME, 3), NAME, tmp_path / "w.pth")


@pytest.mark.parametrize("name", [NAME, "resnet18", "squeezenet1_1"])
def test_one_logit_is_refused_with_the_way_to_two(tmp_path: Path, name: str) -> None:
    torch.save(build(name, 1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth gives 1 logit") as caught:
        Checkpoint.from_weights(tmp_path / "w.pth", backbone=name)
    assert "torch.cat([torch.zeros_like(w), w])" in str(caught.value.fix)
