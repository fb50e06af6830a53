"""Two real processes, started by torchrun, against one with as many images in a step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from edgetl.data.dataset import Dataset
from edgetl.models.checkpoint import Checkpoint
from edgetl.training.processes import ALONE, Processes, SharedBatchNorm, joined
from edgetl_runtime.errors import UsageError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "export", "runtime")),
}


@pytest.fixture
def photos(data: Dataset, tmp_path: Path) -> Path:
    """The bars as files: 48 to train on, 23 to judge, which two processes cannot share alike."""
    for split, samples in (("train", data.train), ("val", data.val[:-1])):
        for sample in samples:
            folder = tmp_path / "bars" / split / data.labels[sample.label].id
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.source).save(folder / f"{sample.name}.png")  # type: ignore[arg-type]
    return tmp_path / "bars"


def train(out: Path, photos: Path, *more: str, processes: int = 1) -> Checkpoint:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}", "-m"]
    words = ["edgetl", "train", "--data", str(photos), "--backbone", "mobilenet_v3_small", "--weights", "none"]
    words += [
        "--strategy",
        "full",
        "--epochs",
        "2",
        "--dropout",
        "0",
        "--image-size",
        "32",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [*start, *words, *more, "--out", str(out)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    if processes > 1:
        assert f"times {processes} processes" in done.stderr
        assert done.stdout.count("validation top-1") == 1  # one speaks for all
    return Checkpoint.load(out)


def test_two_processes_train_what_one_does(photos: Path, tmp_path: Path) -> None:
    # Slowly: at ten times the rate what a CPU rounds differently grows to 0.3 % of a loss within two epochs.
    one = train(tmp_path / "one", photos, "--batch-size", "16", "--lr", "1e-4")
    two = train(tmp_path / "two", photos, "--batch-size", "8", "--lr", "5e-5", processes=2)
    losses = [json.loads((tmp_path / name / "history.json").read_text())["epochs"] for name in ("one", "two")]
    for a, b in zip(*losses, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-3)
        assert b["val_top1"] == a["val_top1"]
        assert round(a["val_top1"] * 23, 6) == round(a["val_top1"] * 23)  # of 23 images, each once
    away = torch.cat([(one.state[name].float() - two.state[name].float()).abs().flatten() for name in one.state])
    # Adam turns the sign of a vanishing gradient into a whole step, so a few weights may be steps apart.
    assert float(away.mean()) < 1e-6
    assert float((away > 1e-4).float().mean()) < 0.01
    assert two.training["processes"] == 2


def test_shared_statistics_are_those_of_all_images(tmp_path: Path) -> None:
    """Alone in a group of one, against torch's own; the test above has them over two."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        own, given = nn.BatchNorm2d(4), torch.randn(5, 4, 3, 3, requires_grad=True)
        with torch.no_grad():
            own.weight.uniform_(0.5, 2)
        other = nn.BatchNorm2d(4)
        other.load_state_dict(own.state_dict())
        shared, twin = SharedBatchNorm(other), given.detach().clone().requires_grad_()
        for norm, x in ((own, given), (shared, twin)):
            norm.train()
            (norm(x) ** 3).sum().backward()
        torch.testing.assert_close(twin.grad, given.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(shared.running_var, own.running_var)
        torch.testing.assert_close(shared.running_mean, own.running_mean)
        torch.testing.assert_close(shared.weight.grad, own.weight.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(shared.eval()(twin), own.eval()(given))
        assert set(shared.state_dict()) == set(own.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_alone_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined(torch.device("cpu")) as processes:
        assert processes == ALONE
    assert processes.agree("x") == "x"
    value = torch.ones(2)
    assert processes.summed(value) is value
    assert processes.gathered(value) is value
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert processes.wrapped(processes.shared_statistics(model, torch.device("cpu")), torch.device("cpu")) is model
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="WORLD_SIZE is 2"), joined(torch.device("cpu")):
        pass


def test_parts_cover_everything() -> None:
    assert [Processes(rank, 2).part(5) for rank in range(2)] == [slice(0, 3), slice(3, 5)]
