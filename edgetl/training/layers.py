"""Which layers a training changes, how fast, and which stay as they came."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgetl.models.backbones import head_block, head_of, stages
from edgetl.training.options import TrainOptions
from edgetl_runtime.errors import UsageError

__all__ = ["Layers", "drop_before_head", "parameter_groups", "unfreezing"]

_UNFROZEN_BY = 2 / 3
"""Share of the epochs after which ``gradual`` trains all stages."""


class Layers:
    """The stages of a network and its head; `train_last` says what is trained from now on."""

    def __init__(self, model: nn.Module, *, frozen_statistics: bool) -> None:
        self.model = model
        self.stages = stages(model)
        self._frozen_statistics = frozen_statistics
        self._frozen: list[nn.Module] = []

    def train_last(self, n: int | None) -> None:
        """Head and last `n` stages (all when ``None``) get gradients, the others none."""
        first = 0 if n is None else len(self.stages) - n
        self.model.requires_grad_(n is None)
        for module in [head_block(self.model)[1], *(module for stage in self.stages[first:] for module in stage)]:
            module.requires_grad_(True)
        self._frozen = [module for stage in self.stages[:first] for module in stage]

    def mode_of_training(self) -> None:
        """Training mode, but for what is frozen: its batch norms keep the statistics that they came with."""
        self.model.train()
        for module in self._frozen:
            module.eval()
        if self._frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()


def unfreezing(
    options: TrainOptions, model: nn.Module, epochs: int, image: tuple[int, int, int]
) -> Callable[[int], int | None]:
    """How many of the last stages are trained in an epoch (from 1).

    Args:
        options: Their strategy.
        model: The network.
        epochs: Of the whole training.
        image: (channels, height, width) of what it takes.

    Raises:
        UsageError: There are not as many stages, or none of that stride.
    """
    n, wanted = len(stages(model)), options.trained_stages
    if options.trained_stride is not None:
        wanted = _stages_of_stride(model, options.trained_stride, image)
    if wanted is not None and wanted > n:
        raise UsageError(f"{options.strategy}: there are {n} stages", fix=f"last:{n} or less, or full")
    if options.strategy != "gradual":
        return lambda epoch: wanted

    def grown(epoch: int) -> int | None:
        part = epoch / max(1.0, epochs * _UNFROZEN_BY)
        return None if part >= 1 else max(1, int(n * part))

    return grown


def _stages_of_stride(model: nn.Module, stride: int, image: tuple[int, int, int]) -> int:
    """How many of the last stages give maps of `stride` or more; what is behind them and gives no map counts, too."""
    units, height = stages(model), image[1]
    stage_of = {module: place for place, stage in enumerate(units) for part in stage for module in part.modules()}
    strides = [0.0] * len(units)

    def look(module: nn.Module, given: object, result: object) -> None:
        if isinstance(result, Tensor) and result.ndim == 4 and not list(module.children()):
            strides[stage_of[module]] = height / result.shape[2]

    hooks = [module.register_forward_hook(look) for module in stage_of]
    training, parameter = model.training, next(model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, *image, device=parameter.device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    first = next((place for place, found in enumerate(strides) if found > stride / math.sqrt(2)), None)
    if first is None:
        raise UsageError(
            f"no stage has a stride of {stride}: the last has {max(strides):.0f}", fix="--strategy last:N, or full"
        )
    return len(units) - first


@dataclass(frozen=True)
class _Place:
    """Where a parameter belongs: stages between it and the head (-1 for the head itself), and whether it decays."""

    distance: int
    decays: bool


def parameter_groups(model: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Groups for an optimiser, head first: a rate for every distance from the head, no decay of vectors.

    Biases and normalisation are vectors. Expects `options` without open choices.
    """
    assert options.lr is not None
    assert options.backbone_lr_ratio is not None
    assert options.weight_decay is not None
    distance = _distances(model)
    groups: dict[_Place, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(_Place(distance[name], parameter.ndim > 1), []).append(parameter)
    found = []
    for place, members in sorted(groups.items(), key=lambda item: (item[0].distance, not item[0].decays)):
        rate = options.lr
        if place.distance >= 0:
            rate *= options.backbone_lr_ratio * options.layer_decay**place.distance
        decay = options.weight_decay if place.decays else 0.0
        found.append({"params": members, "lr": rate, "weight_decay": decay})
    return found if options.layer_decay < 1 else _merged(found)


def _distances(model: nn.Module) -> dict[str, int]:
    """Name of a parameter -> stages between it and the head. What is in no stage (a class token) comes first of all."""
    units = stages(model)
    by_parameter = {
        id(parameter): len(units) - 1 - place
        for place, stage in enumerate(units)
        for module in stage
        for parameter in module.parameters()
    }
    by_parameter |= {id(parameter): -1 for parameter in head_block(model)[1].parameters()}
    return {name: by_parameter.get(id(parameter), len(units)) for name, parameter in model.named_parameters()}


def _merged(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the same rate and decay as one: a fused optimiser does less for fewer."""
    merged: dict[tuple[float, float], dict[str, Any]] = {}
    for group in groups:
        key = (group["lr"], group["weight_decay"])
        if key in merged:
            merged[key]["params"] += group["params"]
        else:
            merged[key] = group
    return list(merged.values())


def drop_before_head(model: nn.Module, share: float) -> None:
    """Drop `share` of the head's inputs while training, instead of what the network brings for that."""
    path, head = head_of(model)
    block = model.get_submodule(path.partition(".")[0])
    for module in block.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def drop(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(given[0], share, module.training), *given[1:])

    head.register_forward_pre_hook(drop)
