"""The parts of a training, each by itself: plan, layers, losses, mixing, averages, steps, orders."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgetl.data.loader import filled
from edgetl.models.backbones import HiddenHead, add_hidden_layer, build, head_block, head_of, stages
from edgetl.models.heads import head_named
from edgetl.tasks.classification.losses import CrossEntropy
from edgetl.tasks.losses import distillation_loss
from edgetl.tasks.task import Targets
from edgetl.training.ema import Average
from edgetl.training.layers import Layers, drop_before_head, parameter_groups, unfreezing
from edgetl.training.mixing import Mix, draw_mix
from edgetl.training.network import shuffled, warm_up_and_cosine
from edgetl.training.options import TrainOptions
from edgetl.training.plan import Situation, plan
from edgetl.training.processes import Processes
from edgetl.training.start import keep_statistics_current
from edgetl_runtime.errors import UsageError

CPU = torch.device("cpu")
IMAGE = (3, 64, 96)
FLOWERS = Situation(images=2934, labels=5, pretrained=True, on_gpu=False)


def test_a_head_that_is_not_trained_by_itself_first_is_said() -> None:
    maps = replace(FLOWERS, separate_head=False)
    said = "strategy head-then-full: this head takes maps, so all is trained from the first step on"
    assert said in plan(TrainOptions("head-then-full"), maps).reasons
    for strategy, found in (("head-then-full", FLOWERS), ("head", maps), ("gradual", maps), ("full", maps)):
        assert not any("takes maps" in reason for reason in plan(TrainOptions(strategy), found).reasons)


def test_a_plan_leaves_nothing_open_and_says_why() -> None:
    made = plan(TrainOptions("full"), FLOWERS)
    for name in ("epochs", "batch_size", "lr", "backbone_lr_ratio", "weight_decay", "label_smoothing", "dropout"):
        assert getattr(made.options, name) is not None
        assert any(reason.startswith(f"{name} ") for reason in made.reasons), name
    given = plan(TrainOptions("full", epochs=3, lr=0.5, dropout=0.0), FLOWERS)
    assert (given.options.epochs, given.options.lr, given.options.dropout) == (3, 0.5, 0.0)
    assert not any(reason.startswith(("epochs", "lr", "dropout")) for reason in given.reasons)


def test_plans_fit_data_and_machine() -> None:
    full = TrainOptions("full")
    few, many = (plan(full, replace(FLOWERS, images=n)).options for n in (200, 200_000))
    assert few.epochs > plan(full, FLOWERS).options.epochs > many.epochs  # type: ignore[operator]
    assert few.dropout > many.dropout  # type: ignore[operator]
    scratch = plan(full, replace(FLOWERS, pretrained=False)).options
    assert scratch.epochs > plan(full, FLOWERS).options.epochs  # type: ignore[operator]
    assert (scratch.backbone_lr_ratio, scratch.batch_norm) == (1.0, "train")
    assert plan(full, FLOWERS).options.batch_norm == "frozen"
    on_gpu = plan(full, replace(FLOWERS, images=50_000, on_gpu=True)).options
    assert (on_gpu.batch_size, on_gpu.lr) == (128, pytest.approx(8e-3))


def test_more_processes_mean_a_higher_rate_and_it_is_said() -> None:
    made = plan(TrainOptions("full", lr=0.01), replace(FLOWERS, world=4))
    assert made.options.lr == pytest.approx(0.04)
    assert any("0.01 times 4 processes" in reason for reason in made.reasons)
    assert plan(TrainOptions("full", batch_size=16), replace(FLOWERS, world=2)).options.lr == pytest.approx(3e-3)


@pytest.mark.parametrize(
    ("strategy", "separate", "alone", "network"),
    [
        ("head", True, True, False),
        ("head", False, False, True),
        ("last:2", True, False, True),
        ("head-then-full", True, True, True),
        ("head-then-full", False, False, True),
        ("gradual", True, True, True),
    ],
)
def test_what_is_trained_when(strategy: str, separate: bool, alone: bool, network: bool) -> None:
    made = plan(TrainOptions(strategy), replace(FLOWERS, separate_head=separate))
    assert (made.head_alone, made.network) == (alone, network)


def test_frozen_stages_stay_in_eval_mode() -> None:
    model = build("resnet18", 2)
    layers = Layers(model, frozen_statistics=False)
    layers.train_last(1)
    layers.mode_of_training()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer4", "fc"}
    assert not any(module.training for stage in stages(model)[:-1] for module in stage)
    assert model.get_submodule("layer4").training
    layers.train_last(None)
    layers.mode_of_training()
    assert all(p.requires_grad for p in model.parameters())
    assert model.get_submodule("layer1").training


def test_statistics_can_be_frozen_everywhere() -> None:
    model = build("resnet18", 2)
    layers = Layers(model, frozen_statistics=True)
    layers.train_last(None)
    layers.mode_of_training()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(module.training for module in norms)
    assert model.get_submodule("layer1.0.conv1").training


def test_gradual_unfreezes_from_the_last_stage_to_the_first() -> None:
    model = build("mobilenet_v2", 2)
    trained = unfreezing(TrainOptions("gradual"), model, 12, IMAGE)
    counts = [trained(epoch) for epoch in range(1, 13)]
    assert counts[0] is not None
    assert 1 <= counts[0] <= 3
    grown = [count for count in counts if count is not None]
    assert grown == sorted(grown)
    assert counts[-4:] == [None] * 4
    with pytest.raises(UsageError, match="there are 19 stages"):
        unfreezing(TrainOptions("last:20"), model, 1, IMAGE)


@pytest.mark.parametrize(
    ("backbone", "head", "strategy", "count"),
    [
        ("mobilenet_v2", None, "stride:16", 12),  # of 19: features 7 to 18
        ("mobilenet_v2", "lraspp", "stride:8", 15),
        ("mobilenet_v2", "lraspp", "head-then-stride:16", 12),
        ("resnet18", None, "stride:32", 1),
        ("efficientnet_b0", None, "stride:2", 9),
        ("convnext_tiny", None, "stride:16", 4),  # its third stage, and the layers that halve maps, are stages too
    ],
)
def test_a_stride_says_which_stages_are_trained(backbone: str, head: str | None, strategy: str, count: int) -> None:
    model = build(backbone, 2)
    if head is not None:
        model = head_named(head).attach(model, 2, {}, crop=IMAGE[1:], channels=3)
    model.train()
    assert unfreezing(TrainOptions(strategy), model, 3, IMAGE)(1) == count
    assert model.training
    with pytest.raises(UsageError, match="no stage has a stride of 128"):
        unfreezing(TrainOptions("stride:128"), model, 3, IMAGE)


def test_what_has_random_weights_is_trained_as_a_whole() -> None:
    assert TrainOptions().with_strategy("stride:16", random=True).strategy == "full"
    assert TrainOptions().with_strategy("stride:16", random=False).strategy == "stride:16"
    assert TrainOptions("last:2").with_strategy("stride:16", random=True).strategy == "last:2"


def test_rates_fall_with_the_distance_from_the_head() -> None:
    model = build("mobilenet_v2", 2)
    options = plan(TrainOptions("full", lr=0.01, layer_decay=0.5, weight_decay=0.3), FLOWERS).options
    groups = parameter_groups(model, options)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(head_of(model)[1].weight)] == 0.01
    units = stages(model)
    for distance, stage in enumerate(reversed(units)):
        for parameter in (p for module in stage for p in module.parameters()):
            assert rate[id(parameter)] == pytest.approx(0.01 * 0.1 * 0.5**distance)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.3) for p in group["params"])


def test_equal_rates_share_a_group() -> None:
    options = plan(TrainOptions("full", lr=0.001, weight_decay=0.5), FLOWERS).options
    groups = parameter_groups(build("resnet18", 2), options)
    found = [(group["lr"], group["weight_decay"]) for group in groups]
    assert found == [(0.001, 0.5), (0.001, 0.0), (pytest.approx(1e-4), 0.5), (pytest.approx(1e-4), 0.0)]


def test_dropout_before_the_head_replaces_the_networks_own() -> None:
    model = build("mobilenet_v2", 3)
    drop_before_head(model, 0.999)
    model.train()
    seen: list[torch.Tensor] = []
    head_of(model)[1].register_forward_hook(lambda _, given, out: seen.append(given[0]))
    model(torch.randn(2, 3, 64, 64))
    assert float((seen[0] == 0).float().mean()) > 0.9
    assert all(module.p == 0.0 for module in model.classifier.modules() if isinstance(module, nn.Dropout))  # type: ignore[union-attr]
    model.eval()
    with torch.inference_mode():
        model(torch.randn(2, 3, 64, 64))
    assert float((seen[1] == 0).float().mean()) < 0.9


def test_a_hidden_layer_is_part_of_the_head() -> None:
    model = build("mobilenet_v2", 3)
    before = len(stages(model))
    add_hidden_layer(model, 16)
    path, block = head_block(model)
    assert isinstance(block, HiddenHead)
    assert path == "classifier.1"
    assert head_of(model)[0] == "classifier.1.2"
    assert len(stages(model)) == before
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(UsageError, match="no linear head"):
        add_hidden_layer(build("squeezenet1_1", 2), 8)


def test_the_loss_is_cross_entropy_and_the_focal_loss_forgets_what_is_right() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    outputs = {"logits": logits}
    plain = CrossEntropy()(outputs, Targets(labels))
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels, reduction="none"))
    right = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(CrossEntropy(focal=True)(outputs, Targets(labels)), plain * (1 - right) ** 2)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(CrossEntropy(class_weights=weights)(outputs, Targets(labels)), plain * weights[labels])


def test_mixed_labels_count_with_their_share() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    outputs = {"logits": logits}
    one, other = CrossEntropy()(outputs, Targets(labels)), CrossEntropy()(outputs, Targets(labels.flip(0)))
    torch.testing.assert_close(CrossEntropy()(outputs, Targets(labels, 0.3)), 0.3 * one + 0.7 * other)


def test_a_teacher_who_agrees_costs_nothing() -> None:
    logits = torch.randn(4, 3)
    assert float(distillation_loss(logits, logits.clone(), 3.0).abs().max()) < 1e-5
    labels, outputs = torch.tensor([0, 1, 2, 0]), {"logits": logits}
    mixed = CrossEntropy(teacher_weight=0.25)(outputs, Targets(labels, teacher=logits))
    torch.testing.assert_close(mixed, 0.75 * CrossEntropy()(outputs, Targets(labels)), atol=1e-5, rtol=1e-5)
    teacher = torch.randn(4, 3)
    p, q = torch.softmax(teacher / 2, 1), torch.log_softmax(logits / 2, 1)
    torch.testing.assert_close(distillation_loss(logits, teacher, 2.0), 4 * (p * (p.log() - q)).sum(1))


def test_mixup_and_cutmix() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8).contiguous()
    mixed, share = Mix(0.75).images(images)
    assert share == 0.75
    assert mixed[0].unique().tolist() == [0.75]  # 0.75 * 0 + 0.25 * 3
    cut, share = Mix(0.5, (0.0, 0.0, 0.5, 0.5)).images(images)
    assert share == 0.75
    assert cut[0, 0, :4, :4].unique().tolist() == [3.0]
    assert float((cut[0] == 0).float().mean()) == 0.75
    assert images[0].unique().tolist() == [0.0]


def test_mixing_is_drawn_by_step_alone() -> None:
    assert draw_mix(0.0, 0.0, seed=0, epoch=1, step=0) is None
    drawn = [draw_mix(0.2, 1.0, seed=0, epoch=1, step=step) for step in range(40)]
    assert drawn == [draw_mix(0.2, 1.0, seed=0, epoch=1, step=step) for step in range(40)]
    assert 8 < sum(mix is not None and mix.box is not None for mix in drawn) < 32
    assert draw_mix(0.2, 0.0, seed=1, epoch=1, step=0) != draw_mix(0.2, 0.0, seed=0, epoch=1, step=0)


def test_averages_follow_the_weights_and_can_be_looked_at() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average.values["weight"].fill_(1.0)
    average.update(model)
    first = min(0.9, 2 / 11)
    assert average.values["weight"].unique().tolist() == pytest.approx([first])
    with average.in_place_of(model):
        assert model.weight.unique().tolist() == pytest.approx([first])
    assert model.weight.unique().tolist() == [0.0]
    assert average.values["weight"].unique().tolist() == pytest.approx([first])
    for _ in range(200):
        average.update(model)
    assert float(average.values["weight"].max()) < 1e-6


def test_warm_up_and_cosine() -> None:
    factor = warm_up_and_cosine(100, 0.1)
    values = [factor(step) for step in range(100)]
    assert values[:10] == sorted(values[:10])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert max(values) == values[10] == 1.0
    assert values[-1] < 0.01


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    labels = torch.arange(41) % 3
    options = TrainOptions("full")
    steps = shuffled(labels, options, 1, 8, 1, CPU)
    assert [len(step) for step in steps] == [8] * 5  # the single image at the end is left out
    assert len({index for step in steps for index in step}) == 40
    assert steps == shuffled(labels, options, 1, 8, 1, CPU)
    assert steps != shuffled(labels, options, 2, 8, 1, CPU)
    balanced = shuffled(torch.tensor([0] * 95 + [1] * 5), TrainOptions("full", imbalance="sampler"), 1, 10, 1, CPU)
    assert sum(index >= 95 for step in balanced for index in step) == 50


def test_every_step_of_a_gpu_has_as_many_images() -> None:
    """Each number of images costs it seconds of preparation."""
    labels, gpu = torch.arange(41), torch.device("cuda")
    steps = shuffled(labels, TrainOptions("full"), 1, 8, 1, gpu)
    assert [len(step) for step in steps] == [8] * 6
    assert {index for step in steps for index in step} == set(range(41))
    assert steps[:5] == shuffled(labels, TrainOptions("full"), 1, 8, 1, CPU)
    assert steps[-1][1:] == steps[0][:7]
    assert [len(step) for step in shuffled(labels, TrainOptions("full"), 1, 64, 1, gpu)] == [41]
    pixels = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 2, 2, 3)
    assert filled(pixels, 5, gpu)[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2]
    assert filled(pixels, 5, CPU) is pixels
    assert filled(pixels, 3, gpu) is pixels


def test_processes_share_every_step_without_a_rest() -> None:
    for n in (2, 7, 64):
        parts = [Processes(rank, 3).share(range(n)) for rank in range(3)]
        assert [index for part in parts for index in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_steps_that_not_every_process_has_an_image_of_are_left_out() -> None:
    assert len(shuffled(torch.zeros(18), TrainOptions("full"), 1, 8, 4, CPU)) == 2
    assert len(shuffled(torch.zeros(20), TrainOptions("full"), 1, 8, 4, CPU)) == 3


def test_nothing_is_infinite_in_the_schedule() -> None:
    assert all(math.isfinite(warm_up_and_cosine(1, 0.5)(step)) for step in range(3))
    assert np.isfinite(warm_up_and_cosine(3, 0.0)(3))


def test_statistics_follow_a_training() -> None:
    """MNASNet's would still be those of the beginning after a thousand steps."""
    network = build("mnasnet0_5", 2)
    other = build("mobilenet_v3_small", 2)
    for model, momentum in ((network, 0.1), (other, 0.01)):
        keep_statistics_current(model)
        assert {part.momentum for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {momentum}
