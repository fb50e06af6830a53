"""A training that was stopped anywhere and goes on ends with the very weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edgetl.data.dataset import Dataset, Sample
from edgetl.recipe import ModelOptions
from edgetl.training.finetune import Trained, finetune
from edgetl.training.options import TrainOptions
from edgetl.training.resume import Interrupted, Keeping, listening, unfinished
from edgetl.training.stepper import Stepper
from edgetl_runtime.errors import CheckpointError, DataError, UsageError
from edgetl_runtime.termination import exit_code_of
from tests.zoo import TinyNet, as_backbone

pytestmark = pytest.mark.slow

SIZE = 32
START = ModelOptions("tinynet", "none", SIZE)
# To the last bit is a promise of CPUs.
OPTIONS = TrainOptions(
    "full", epochs=3, lr=3e-3, batch_size=8, ema=0.9, mixup=0.2, dropout=0.3, precision="fp32", device="cpu"
)


def train(data: Dataset, folder: Path | None = None, *, resume: bool = False, **changes: Any) -> Trained:
    return finetune(data, START, replace(OPTIONS, **changes), keeping=Keeping(folder, resume=resume))


def told(trained: Trained) -> tuple[object, ...]:
    """The SHA-256 of the weights, and what every epoch came to, to the last bit."""
    epochs = trained.history.epochs
    return trained.checkpoint.sha256, [(e.train_loss, e.val_loss, e.val_top1) for e in epochs]


@pytest.fixture(scope="module", autouse=True)
def _tiny_network() -> Iterator[None]:
    with as_backbone(START.backbone, TinyNet):
        yield


@pytest.fixture(scope="module")
def whole(data: Dataset) -> tuple[object, ...]:
    """What a training comes to that nothing stopped."""
    return told(train(data))


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """``stop_at(n, act)``: calls `act` in the n-th step that is done from now on."""
    right = Stepper.step

    def arrange(n: int, act: Callable[[], None]) -> None:
        done = 0

        def step(self: Stepper, *given: Any) -> torch.Tensor:
            nonlocal done
            done += 1
            if done == n:
                act()
            return right(self, *given)

        monkeypatch.setattr(Stepper, "step", step)

    return arrange


def crash() -> None:
    raise RuntimeError("the power is out")


def test_a_process_that_is_stopped_again_and_again(whole_child: str, tmp_path: Path) -> None:
    """Asked to stop in the first step, then in the last of an epoch, it stops after the step; then SIGKILL in between:
    `tests/benchmarks/killed_training.py` does it twenty times."""
    for after in (1, 5):
        told = child(tmp_path / "t", "term", str(after))
        assert told.stdout.splitlines()[-1].startswith("interrupted: the training is kept in ")
        assert told.stdout.splitlines()[-1].endswith("with --resume goes on")
    assert child(tmp_path / "t", "kill", "9").returncode == -signal.SIGKILL
    assert child(tmp_path / "t").stdout.split()[-1] == whole_child


@pytest.mark.parametrize("at", [8, 15])
def test_killed_at_any_step(data: Dataset, whole: tuple[object, ...], tmp_path: Path, stop_at: Any, at: int) -> None:
    stop_at(at, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(data, tmp_path / "t")
    assert told(train(data, tmp_path / "t", resume=True)) == whole


def test_a_state_that_lacks_something_would_not_do(
    data: Dataset, whole: tuple[object, ...], tmp_path: Path, stop_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: without the averages another network comes out."""
    stop_at(8, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(data, tmp_path / "t")
    monkeypatch.setattr("edgetl.training.ema.Average.restore", lambda *_: None)
    assert told(train(data, tmp_path / "t", resume=True)) != whole


def child(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`killed_child.py`, run to its end: in a process of its own, because signals are for whole processes."""
    command = [sys.executable, str(Path(__file__).with_name("killed_child.py")), str(folder), *words]
    # Threads that wait for each other make a small network slow where cores are shared.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def whole_child(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the weights of a child that nothing stopped."""
    return child(tmp_path_factory.mktemp("alone"), "alone").stdout.split()[-1]


def test_another_training_is_not_gone_on_with(data: Dataset, tmp_path: Path, stop_at: Any) -> None:
    folder = tmp_path / "t"
    with pytest.raises(UsageError, match="nothing to resume"):
        train(data, folder, resume=True)
    stop_at(8, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(data, folder)
    with pytest.raises(UsageError, match="was not finished") as caught:
        train(data, folder)
    assert "--resume" in str(caught.value.fix)
    with pytest.raises(UsageError, match=r"photos was .* is "):
        train(replace(data, train=data.train[:40]), folder, resume=True)
    with pytest.raises(UsageError, match=r"mixup was 0\.2, is 0\.1"):
        train(data, folder, resume=True, mixup=0.1)
    (folder / "snapshot.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="is damaged, cut off"):
        train(data, folder, resume=True)


def test_a_full_disk_only_costs_the_state(data: Dataset, whole: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file where a folder is needed")
    trained = train(data, tmp_path / "t")
    assert told(trained) == whole
    assert any("could not be written" in note for note in trained.notes)


def test_what_diverges_later_keeps_the_last_good(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = Stepper.step

    def step(self: Stepper, batch: Any, rate: float, watch: Any) -> torch.Tensor:
        loss = right(self, batch, rate, watch)
        return loss * float("nan") if batch.at == (3, 2) else loss

    monkeypatch.setattr(Stepper, "step", step)
    trained = train(data)
    assert len(trained.history.epochs) == 2
    assert any("diverged in epoch 3" in note and "is kept" in note and "--lr" in note for note in trained.notes)
    assert all(torch.isfinite(value).all() for value in trained.checkpoint.state.values())


def test_a_full_gpu_halves_the_batch_and_says_so(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stepper._losses
    seen: list[int] = []

    def losses(self: Stepper, batch: Any, rows: slice) -> torch.Tensor:
        n = rows.stop - rows.start
        seen.append(n)
        if n > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, batch, rows)

    monkeypatch.setattr(Stepper, "_losses", losses)
    trained = train(data, epochs=1)
    assert seen[:3] == [8, 4, 4]
    assert set(seen[1:]) == {4}
    assert any("in 2 parts of 4 images" in note for note in trained.notes)
    monkeypatch.setattr(Stepper, "_losses", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(UsageError, match="memory is too small"):
        train(data, epochs=1)


@pytest.mark.gpu
def test_a_gpu_that_is_full_indeed(data: Dataset) -> None:
    """64 images of 224 pixels need more than 1.5 GB, 16 of them less."""
    share = 1.5e9 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        options = replace(OPTIONS, epochs=1, batch_size=64, device="cuda", accumulate=1)
        many = replace(data, train=data.train * 3)
        trained = finetune(many, ModelOptions("mobilenet_v2", "none", 224), options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert any("out of memory" in note and "parts of" in note for note in trained.notes)


@pytest.mark.gpu
def test_a_training_on_a_gpu_goes_on(data: Dataset, tmp_path: Path, stop_at: Any) -> None:
    """There sums may come out differently each time: nearly the same is asked for."""
    whole = train(data, device="cuda")
    stop_at(8, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(data, tmp_path / "t", device="cuda")
    resumed = train(data, tmp_path / "t", resume=True, device="cuda")
    first, second = ([epoch.train_loss for epoch in one.history.epochs] for one in (whole, resumed))
    assert second == pytest.approx(first, rel=0.01)


def test_parts_of_a_step_add_up(data: Dataset) -> None:
    """With statistics that stay, going through the network in parts changes nothing but roundings."""
    options = {"batch_norm": "frozen", "dropout": 0.0, "mixup": 0.0, "ema": 0.0, "epochs": 1}
    one, four = (train(data, accumulate=n, **options).checkpoint.state for n in (1, 4))
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, atol=2e-4, rtol=2e-3)


def test_an_image_that_goes_bad_on_the_way_is_named(data: Dataset, tmp_path: Path, stop_at: Any) -> None:
    def on_disk(sample: Sample) -> Sample:
        path = tmp_path / f"{sample.name}.png"
        Image.fromarray(sample.source).save(path)  # type: ignore[arg-type]
        return Sample(path, sample.label, sample.name)

    photos = replace(data, train=tuple(map(on_disk, data.train)))

    def spoil() -> None:
        for sample in photos.train[::3]:
            Path(str(sample.source)).write_bytes(b"gone bad")

    stop_at(8, spoil)
    with pytest.raises(DataError, match=r"bar-\d+"):
        train(photos, tmp_path / "t", cache=False)
    assert (tmp_path / "t" / "snapshot.pt").is_file()


def test_the_state_lies_beside_the_destination() -> None:
    assert unfinished(Path("a/flowers.edgetl")) == Path("a/flowers.edgetl.training")


def stopped_by(how: signal.Signals) -> None:
    with listening(active=True) as heard:
        signal.raise_signal(how)
        assert heard.stop
        raise Interrupted("kept")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_tells_which_signal_stopped_it(how: signal.Signals) -> None:
    with pytest.raises(Interrupted) as found:
        stopped_by(how)
    assert exit_code_of(found.value) == 128 + how


def test_what_else_lies_in_the_folder_of_a_training_stays(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "flowers")
    folder.mkdir()
    (folder / "snapshot.pt").write_bytes(b"state")
    (folder / "photo.jpg").write_bytes(b"precious")
    Keeping(folder).drop()
    assert [path.name for path in folder.iterdir()] == ["photo.jpg"]
    (folder / "photo.jpg").unlink()
    Keeping(folder).drop()
    assert not folder.exists()
