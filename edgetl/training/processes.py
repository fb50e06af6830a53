"""Several processes that train one network, started by ``torchrun``; with one process everything here does nothing.

The steps are those of one process with as many images in a step: losses are divided by the images of all, statistics of
batch norms are taken over all, and every image is judged once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgetl_runtime.errors import UsageError

__all__ = ["ALONE", "Processes", "SharedBatchNorm", "joined"]

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Of `world` processes this is number `rank`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This process's part of `n` things: one process's after the other's, as even as can be."""
        size, more = divmod(n, self.world)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`."""
        return items[self.part(len(items))]

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all processes, in every one of them."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def gathered(self, value: Tensor) -> Tensor:
        """Rows (n, ...) of all processes, those of the first one first; every process may have another number."""
        if self.world == 1:
            return value
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, value.cpu())
        return torch.cat([part.to(value.device) for part in parts])

    @contextmanager
    def one_after_the_first(self) -> Iterator[None]:
        """The others come in when the first process has left: what it put into a cache is there for them."""
        if self.world > 1 and not self.first:
            dist.barrier()
        yield
        if self.world > 1 and self.first:
            dist.barrier()

    def agree(self, value: T) -> T:
        """What the first process says."""
        if self.world == 1:
            return value
        told: list[T] = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with gradients averaged over processes; its trained parameters must not change afterwards."""
        if self.world == 1:
            return model
        ids = [device.index] if device.type == "cuda" else None
        # Statistics are the same everywhere, so there is nothing to send before each step.
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    def shared_statistics(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with batch norms that take their statistics over the images of all processes."""
        if self.world == 1:
            return model
        if device.type == "cuda":
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return converted
        return _converted(model)


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, talking to each other: over NCCL for GPUs, over gloo otherwise."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        with nullcontext():
            yield _known() if world > 1 else ALONE
        return
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise UsageError(f"WORLD_SIZE is {world}, but nothing says where the others are", fix="torchrun -m edgetl ...")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield _known()
    finally:
        dist.destroy_process_group()


def _known() -> Processes:
    return Processes(dist.get_rank(), dist.get_world_size())


def _converted(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return SharedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, _converted(child))
    return module


class _Sum(torch.autograd.Function):
    """The sum over all processes; every loss depends on what every process put in."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(_BatchNorm):
    """What `torch.nn.SyncBatchNorm` is on GPUs, for processes on CPUs: parameters and buffers are those of `norm`."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x` (N, C, ...)."""
        if not self.training:
            return super().forward(x)
        mean, var = self._statistics(x.float())
        shape = (1, -1, *[1] * (x.ndim - 2))
        normal = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape) if self.affine else normal

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 # the name that torch gives it
        return None

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([x.sum(dims), count]))
        mean, n = sums[:-1] / sums[-1], sums[-1]
        centred = x - mean.view(1, -1, *[1] * (x.ndim - 2))
        var: Tensor = _Sum.apply(centred.square().sum(dims)) / n
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                part = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, part)
                self.running_var.lerp_(var * n / (n - 1), part)
        return mean, var
