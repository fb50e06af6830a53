"""After surgery: the changed network learns, without labels, to give what the original gives."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.device import device_named, distilling
from edgetl_export.memory import memory_reused
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.distill import DistillOptions, batches, outputs_error, rate_left
from edgetl_export.source import Source, by_name
from edgetl_export.surgery import Operated
from edgetl_runtime.errors import ExportError

__all__ = ["Relearned", "relearn"]

_MOST_IMAGES = 512
_RATE = 10.0
"""How much faster than quantised weights these may move: the function is farther away."""


@dataclass(frozen=True)
class Relearned:
    """The network, and what surgery and training did: ``loss`` is the relative squared error of the outputs."""

    network: nn.Module
    replaced: Counter[str]
    sqnr_db: float
    loss: float | None
    epochs: int
    seconds: float

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: ``sqnr_db`` held out, before training; ``loss`` on the photos trained on."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return {**named, "replaced": dict(self.replaced)}


@memory_reused()
def relearn(
    operated: Operated,
    source: Source,
    samples: CalibrationSamples,
    options: DistillOptions,
    *,
    track: Track = silent,
) -> Relearned:
    """Train all of ``operated.network`` on `samples` against ``source.module``; batch norms keep their statistics.

    Raises `ExportError` when the loss is not finite or a GPU's memory too small, `UsageError` for a device that is not
    there.
    """
    images = np.concatenate(list(islice(samples, _MOST_IMAGES)))
    device = device_named(options.device)
    with distilling(options.batch_size):
        network = operated.network.eval().requires_grad_().to(device)
        teacher = replace(source, features=()).network().to(memory_format=torch.channels_last).to(device)
        mean, std = (torch.tensor(values, device=device) for values in (source.normalize.mean, source.normalize.std))
        groups = [
            {"params": [value], "base": _RATE * options.rate * max(float(value.detach().square().mean().sqrt()), 1e-6)}
            for value in network.parameters()
        ]
        optimizer = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99))
        total, done, start = options.epochs * math.ceil(len(images) / options.batch_size), 0, time.monotonic()
        losses: list[float] = []
        for epoch in track(range(options.epochs), what="relearn", total=options.epochs):
            losses = []
            for batch in batches(images, options, epoch, device):
                schedule = rate_left(done / total, 1 / total, (time.monotonic() - start) / options.seconds)
                if schedule == 0.0:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * schedule
                normal = ((batch.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)
                with torch.no_grad():
                    wanted = by_name(teacher(normal), source.outputs)
                loss = outputs_error(by_name(network(normal), source.outputs), wanted)
                if not torch.isfinite(loss):
                    raise ExportError("the distillation's loss is not finite", fix="leave the surgery out")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(float(loss.detach()))
                done += 1
    network.requires_grad_(requires_grad=False).cpu()
    loss_now = float(np.mean(losses)) if losses else None
    return Relearned(
        network,
        Counter(operated.replaced),
        operated.sqnr_db_after,
        loss_now,
        options.epochs,
        time.monotonic() - start,
    )
