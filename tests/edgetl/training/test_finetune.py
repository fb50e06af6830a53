from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgetl.data.dataset import Dataset, Sample, load_dataset
from edgetl.data.image_files import BadImage
from edgetl.data.loader import Normalizer, Pixels, evaluation_batches
from edgetl.models.backbones import build, head_of, preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.training_history import Epoch, History
from edgetl.recipe import ModelOptions, TrainOptions
from edgetl.training.features import extract, frozen_backbone
from edgetl.training.finetune import finetune
from edgetl.training.start import check_start
from edgetl.training.stepper import autocast_dtype
from edgetl_export.progress import silent
from edgetl_runtime.errors import CheckpointError, OutputError, UsageError
from edgetl_runtime.manifest import Label
from edgetl_runtime.preprocess import preprocess

pytestmark = pytest.mark.slow

BACKBONE = "mobilenet_v3_small"
SIZE = 32


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Bars that lie or stand: learnt in seconds, and lost when an image is turned by a quarter."""
    rng = np.random.default_rng(0)

    def sample(i: int) -> Sample:
        image = rng.integers(0, 60, (36, 36, 3))
        at, label = int(rng.integers(4, 28)), i % 2
        image[(slice(at, at + 5), slice(None)) if label else (slice(None), slice(at, at + 5))] += 160
        return Sample(image.astype(np.uint8), label, f"bar-{i}")

    samples = tuple(sample(i) for i in range(120))
    return Dataset("bars", (Label("standing", "standing"), Label("lying", "lying")), samples[:80], samples[80:])


@pytest.fixture(scope="module")
def weights(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random, but so that something reaches the head: batch norms that know the images, a livelier last layer."""
    torch.manual_seed(0)
    model = build(BACKBONE, 7)
    spec, normalize = preset(BACKBONE, SIZE)
    pixels, _ = next(evaluation_batches(Pixels(data.train, spec, kind="eval"), 32))
    images = Normalizer(normalize, torch.device("cpu"))(pixels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
        model.classifier[0].weight.mul_(10)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(model.state_dict(), file)
    return str(file)


def start(weights: str, backbone: str = BACKBONE) -> ModelOptions:
    return ModelOptions(backbone, weights, SIZE)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], *, but: str | tuple[str, ...]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in one if not key.startswith(but))


def test_head_changes_the_head_alone(data: Dataset, weights: str) -> None:
    tracked: list[str] = []

    def track(items: Iterable[Any], *, what: str, total: int) -> Iterable[Any]:
        items = list(items)
        assert len(items) == total
        tracked.append(what)
        return items

    trained = finetune(data, start(weights), TrainOptions("head", epochs=20), track=track)
    assert [what for what in tracked if what != "decode"] == ["features", "features"]
    before = Checkpoint.from_weights(Path(weights), backbone=BACKBONE).state
    assert same(before, trained.checkpoint.state, but="classifier.3")
    assert trained.notes == ("w.safetensors: head of 7 outputs replaced by one of 2",)
    assert trained.history.epochs[-1].train_loss < 0.9 * trained.history.epochs[0].train_loss
    assert trained.checkpoint.training["data"] == {
        "name": "bars",
        "fingerprint": data.fingerprint,
        "train": 80,
        "val": 40,
    }
    again = finetune(data, start(weights), TrainOptions("head", epochs=20, seed=9))
    assert again.checkpoint.sha256 == trained.checkpoint.sha256  # a convex problem: the seed does not matter


def test_the_checkpoint_scores_what_the_history_says(data: Dataset, weights: str) -> None:
    checkpoint = (trained := finetune(data, start(weights), TrainOptions("head"))).checkpoint
    model, right = checkpoint.build(), 0
    normalized = Normalizer(checkpoint.normalize, torch.device("cpu"))
    with torch.inference_mode():
        for pixels, truth in evaluation_batches(Pixels(data.val, checkpoint.preprocess, kind="eval"), 7):
            right += int((model(normalized(pixels)).argmax(1) == truth).sum())
    assert right / len(data.val) == pytest.approx(trained.history.best.val_top1, abs=0.026)


def test_last_n_trains_the_last_stages_and_keeps_statistics(data: Dataset, weights: str) -> None:
    trained = finetune(data, start(weights), TrainOptions("last:1", epochs=1, lr=0.01))
    before = Checkpoint.from_weights(Path(weights), backbone=BACKBONE).state
    assert same(before, trained.checkpoint.state, but="classifier")
    assert not torch.equal(before["classifier.0.weight"], trained.checkpoint.state["classifier.0.weight"])
    two = finetune(data, start(weights), TrainOptions("last:2", epochs=1, batch_norm="train")).checkpoint.state
    assert same(before, two, but=("features.12", "classifier"))
    assert not torch.equal(before["features.12.1.running_mean"], two["features.12.1.running_mean"])
    still = finetune(data, start(weights), TrainOptions("last:2", epochs=1)).checkpoint.state
    assert torch.equal(before["features.12.1.running_mean"], still["features.12.1.running_mean"])
    assert not torch.equal(before["features.12.1.weight"], still["features.12.1.weight"])
    with pytest.raises(UsageError, match="last:99: there are 14 stages"):
        finetune(data, start(weights), TrainOptions("last:99"))


def test_full_learns_from_scratch_and_repeats_itself(data: Dataset) -> None:
    options = TrainOptions("full", epochs=3, lr=3e-3, augment="shift", batch_size=16)
    one = finetune(data, start("none", "squeezenet1_1"), options)
    state = torch.random.get_rng_state()
    two = finetune(data, start("none", "squeezenet1_1"), options)
    assert one.checkpoint.sha256 == two.checkpoint.sha256
    assert torch.equal(torch.random.get_rng_state(), state)
    other = finetune(data, start("none", "squeezenet1_1"), replace(options, seed=1))
    assert other.checkpoint.sha256 != one.checkpoint.sha256


def test_it_learns(data: Dataset) -> None:
    options = TrainOptions("full", epochs=10, lr=2e-3, augment="none", batch_size=16)
    assert finetune(data, start("none", "resnet18"), options).history.best.val_top1 >= 0.9


def test_a_head_that_is_not_linear_is_trained_through_the_network(data: Dataset, tmp_path: Path) -> None:
    model = build("squeezenet1_1", 2)
    save_file(model.state_dict(), tmp_path / "s.safetensors")
    trained = finetune(
        data, start(str(tmp_path / "s.safetensors"), "squeezenet1_1"), TrainOptions("head", epochs=1, lr=0.1)
    )
    after = trained.checkpoint.state
    assert same(dict(model.state_dict()), after, but="classifier.1")
    assert not torch.equal(model.state_dict()["classifier.1.weight"], after["classifier.1.weight"])


def test_a_checkpoint_is_trained_further(data: Dataset, weights: str) -> None:
    first = finetune(data, start(weights), TrainOptions("head", epochs=2)).checkpoint
    more = replace(data, labels=(*data.labels, Label("third", "third")))
    second = finetune(more, first, TrainOptions("head", epochs=2))
    assert second.notes == ("checkpoint: head of 2 outputs replaced by one of 3",)
    assert second.checkpoint.preprocess == first.preprocess


def test_early_stopping_keeps_the_best(data: Dataset, weights: str) -> None:
    trained = finetune(data, start(weights), TrainOptions("head", epochs=60, patience=3))
    n, best = len(trained.history.epochs), trained.history.best
    assert n < 60
    assert n - best.epoch == 3
    assert best.val_top1 == max(epoch.val_top1 for epoch in trained.history.epochs)


def test_what_is_wrong_with_the_start_is_said_before_work(data: Dataset, weights: str) -> None:
    with pytest.raises(UsageError, match="they are random"):
        check_start(start("none"), TrainOptions("head"))
    with pytest.raises(UsageError, match="did you mean"):
        check_start(start(weights, "mobilenet_v3_smal"), TrainOptions())
    with pytest.raises(CheckpointError, match="no weights file"):
        check_start(start("nowhere.pth"), TrainOptions())
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            check_start(start(weights), TrainOptions(device="cuda"))
    check_start(start(weights), TrainOptions())


def test_an_option_that_does_nothing_is_said(data: Dataset, weights: str) -> None:
    assert "lr is not used" in finetune(data, start(weights), TrainOptions("head", epochs=1, lr=0.1)).notes[1]


def test_images_that_were_left_out_are_counted(data: Dataset, weights: str) -> None:
    less = replace(data, bad=(BadImage(Path("a.jpg"), "truncated"),))
    assert finetune(less, start(weights), TrainOptions("head", epochs=1)).notes[1].startswith("1 unreadable")


def test_divergence_is_an_error(data: Dataset, weights: str) -> None:
    with pytest.raises(UsageError, match="diverged in epoch 1"):
        finetune(data, start(weights), TrainOptions("full", epochs=1, lr=1000.0, augment="none"))


def test_frozen_features_are_those_of_the_network(data: Dataset, weights: str) -> None:
    model = Checkpoint.from_weights(Path(weights), backbone=BACKBONE, image_size=SIZE).build()
    spec, normalize = preset(BACKBONE, SIZE)
    found = extract(
        frozen_backbone(model), Pixels(data.val, spec, kind="eval"), normalize, device=torch.device("cpu"), track=silent
    )
    pixels = torch.from_numpy(np.stack([preprocess(sample.source, spec) for sample in data.val]))
    with torch.inference_mode():
        expected = model(Normalizer(normalize, torch.device("cpu"))(pixels))
        head = head_of(model)[1]
        torch.testing.assert_close(head(found.values), expected, atol=1e-3, rtol=1e-3)
    assert found.targets.tolist() == [sample.label for sample in data.val]


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t", "googlenet", "shufflenet_v2_x0_5", "densenet121"])
def test_features_of_other_families(data: Dataset, name: str) -> None:
    model = build(name, 2, image_size=64).eval()
    spec, normalize = preset(name, 64)
    few = data.val[:2]
    found = extract(
        frozen_backbone(model), Pixels(few, spec, kind="eval"), normalize, device=torch.device("cpu"), track=silent
    )
    assert found.values.shape == (2, head_of(model)[1].weight.shape[1])


def test_history_is_json_and_a_picture(tmp_path: Path) -> None:
    history = History(
        (Epoch(1, 1.0, 1.1, 0.5, 0.1, 1.0), Epoch(2, 0.8, 0.9, 0.7, 0.1, 2.0), Epoch(3, 0.7, 1.2, 0.7, 0.1, 3.0))
    )
    assert history.best.epoch == 2  # equally right, but surer of it
    assert history.best.told("mAP") == "loss 0.800, of validation 0.900; mAP 70.0%"
    history.save(tmp_path / "h.json")
    read = json.loads((tmp_path / "h.json").read_text())
    assert read["best_epoch"] == 2
    assert read["epochs"][0] == {
        "epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "val_top1": 0.5, "lr": 0.1, "seconds": 1.0,
        "phase": "network", "trained_stages": None, "spent": {},
    }  # fmt: skip
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    history.plot(tmp_path / "h.svg")
    assert (tmp_path / "h.svg").read_text().count("<path") > 20
    assert "learning rate" in (tmp_path / "h.svg").read_text()  # matplotlib says in comments what it draws as paths
    with pytest.raises(OutputError):
        history.plot(tmp_path / "no" / "h.png")


@pytest.mark.data
def test_real_flowers_are_told_apart(edgetl_data: Path) -> None:
    """A tenth of the photos: the whole set is the job of the benchmark."""
    whole = load_dataset(edgetl_data / "flowers")
    small = Dataset("flowers", whole.labels, whole.train[::12], whole.val[::4])
    weights = edgetl_data / "weights" / "mobilenet_v2_imagenet1k.safetensors"
    trained = finetune(small, ModelOptions("mobilenet_v2", str(weights), 128), TrainOptions("head"))
    assert trained.history.best.val_top1 >= 0.7


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "fp16", "ema": 0.8},
        {"precision": "fp32", "accumulate": 4},
        {"mixup": 0.2, "imbalance": "focal"},
    ],
    ids=str,
)
def test_it_trains_on_a_gpu(data: Dataset, changes: dict[str, Any]) -> None:
    plain = TrainOptions("full", epochs=8, lr=2e-3, augment="none", batch_size=16, device="cuda")
    trained = finetune(data, start("none", "resnet18"), replace(plain, **changes))
    assert trained.history.best.val_top1 >= 0.9
    assert all(value.device.type == "cpu" for value in trained.checkpoint.state.values())


@pytest.mark.gpu
def test_a_head_and_its_teacher_on_a_gpu(data: Dataset, weights: str, tmp_path: Path) -> None:
    teacher = finetune(data, start(weights), TrainOptions("head", device="cuda"))
    assert teacher.history.best.val_top1 >= 0.8
    teacher.checkpoint.save(tmp_path / "teacher")
    options = TrainOptions(
        "head-then-last:2", epochs=2, batch_size=16, teacher=str(tmp_path / "teacher"), hidden=24, device="cuda"
    )
    trained = finetune(data, start(weights), options)
    assert trained.history.best.val_top1 >= 0.8
    assert trained.checkpoint.hidden == 24


def test_a_network_starts_from_the_best_head(data: Dataset, weights: str) -> None:
    trained = finetune(data, start(weights), TrainOptions("head-then-last:2", epochs=2, batch_size=16))
    named = [trained.history.named(epoch) for epoch in trained.history.epochs]
    assert named[0] == "epoch 1 of the head"
    assert named[-2:] == ["epoch 1", "epoch 2"]
    phases = [epoch.phase for epoch in trained.history.epochs]
    assert phases == ["head"] * (len(phases) - 2) + ["network"] * 2
    assert [epoch.epoch for epoch in trained.history.epochs] == list(range(1, len(phases) + 1))
    assert [epoch.trained_stages for epoch in trained.history.epochs[-2:]] == [2, 2]
    before = Checkpoint.from_weights(Path(weights), backbone=BACKBONE).state
    assert same(before, trained.checkpoint.state, but=("features.12", "classifier"))
    best_head = max(epoch.val_top1 for epoch in trained.history.epochs if epoch.phase == "head")
    assert trained.history.best.val_top1 >= best_head


def test_gradual_trains_more_stages_as_it_goes(data: Dataset, weights: str) -> None:
    trained = finetune(data, start(weights), TrainOptions("gradual", epochs=3, batch_size=16))
    counts = [epoch.trained_stages for epoch in trained.history.epochs if epoch.phase == "network"]
    assert counts == [7, None, None]


def test_a_hidden_layer_is_kept_and_rebuilt(data: Dataset, weights: str, tmp_path: Path) -> None:
    trained = finetune(data, start(weights), TrainOptions("head", hidden=24))
    assert trained.checkpoint.hidden == 24
    assert trained.history.best.val_top1 >= 0.8
    trained.checkpoint.save(tmp_path / "c")
    again = Checkpoint.load(tmp_path / "c")
    model = again.build()
    assert model.get_submodule("classifier.3.0").weight.shape[0] == 24
    more = finetune(data, again, TrainOptions("last:1", epochs=1))
    assert more.checkpoint.hidden == 24
    with pytest.raises(UsageError, match="hidden layer of 24"):
        finetune(data, again, TrainOptions("head", hidden=8))


def test_a_teacher_is_learned_from(data: Dataset, weights: str, tmp_path: Path) -> None:
    teacher = finetune(data, start(weights), TrainOptions("head")).checkpoint
    teacher.save(tmp_path / "teacher")
    options = TrainOptions(
        "last:2",
        epochs=12,
        lr=0.01,
        batch_size=16,
        augment="none",
        dropout=0.0,
        teacher=str(tmp_path / "teacher"),
        teacher_weight=1.0,
    )
    # Labels that are all wrong count nothing, so that what it gets right it has from the teacher.
    wrong = replace(data, train=tuple(replace(sample, label=1 - sample.label) for sample in data.train))
    misled = finetune(wrong, start(weights), replace(options, teacher=None)).checkpoint
    told = finetune(wrong, start(weights), options).checkpoint
    assert told.training["options"]["teacher"] == "teacher", "its name: a report shows no path of this disk"
    spec = teacher.preprocess
    pixels = Normalizer(teacher.normalize, torch.device("cpu"))(Pixels(data.val, spec, kind="eval").read(range(40)))
    with torch.inference_mode():
        wanted, *answers = [checkpoint.build()(pixels).argmax(1) for checkpoint in (teacher, told, misled)]
    taught, untaught = [float((answer == wanted).float().mean()) for answer in answers]
    assert taught > 0.65
    assert taught > untaught + 0.2
    others = replace(data, labels=(Label("a", "a"), Label("b", "b")))
    with pytest.raises(UsageError, match="does not know the labels a, b"):
        finetune(others, start(weights), options)
    with pytest.raises(CheckpointError, match="no teacher"):
        check_start(start(weights), replace(options, teacher=str(tmp_path / "gone")))
    with pytest.raises(UsageError, match="does not learn from a teacher"):
        check_start(start(weights), replace(options, strategy="head"))


@pytest.mark.parametrize("imbalance", ["weights", "sampler", "focal"])
def test_a_rare_label_is_recalled(data: Dataset, weights: str, imbalance: str) -> None:
    """One standing bar for twenty lying ones, learnt for a little: without help it is hardly ever said."""
    lying, standing = ([s for s in data.train if s.label == label] for label in (1, 0))
    rare = replace(data, train=tuple(lying[:40] + standing[:2]))

    def recall(way: str) -> float:
        options = TrainOptions("last:1", epochs=6, batch_size=14, lr=3e-3, imbalance=way, augment="none", dropout=0.0)
        model = finetune(rare, start(weights), options).checkpoint.build()
        spec, normalize = preset(BACKBONE, SIZE)
        found = [s for s in data.val if s.label == 0]
        pixels = Normalizer(normalize, torch.device("cpu"))(Pixels(found, spec, kind="eval").read(range(len(found))))
        with torch.inference_mode():
            return float((model(pixels).argmax(1) == 0).float().mean())

    assert recall(imbalance) > recall("none") + 0.1


def test_precision_is_what_suits_the_device() -> None:
    assert autocast_dtype("fp32", torch.device("cpu")) is torch.float32
    assert autocast_dtype("auto", torch.device("cpu")) is torch.float32
    with pytest.raises(UsageError, match="fp16 training needs a GPU"):
        autocast_dtype("fp16", torch.device("cpu"))
