from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from edgetl_export.device import device_named
from edgetl_runtime.errors import UsageError


@dataclass
class Gpus:
    """So many GPUs, to choose from; nothing runs on them."""

    n: int

    def is_available(self) -> bool:
        return self.n > 0

    def device_count(self) -> int:
        return self.n


@pytest.mark.parametrize(
    ("gpus", "name", "expected"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (2, "auto", "cuda:1"), (2, "cuda", "cuda:1"), (2, "cpu", "cpu")],
)
def test_a_gpu_of_its_own_when_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, expected: str
) -> None:
    monkeypatch.setattr(torch, "cuda", Gpus(gpus))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(device_named(name)) == expected


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", Gpus(0))
    with pytest.raises(UsageError, match="no CUDA device"):
        device_named("cuda")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        device_named("tpu")
    monkeypatch.setattr(torch, "cuda", Gpus(1))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UsageError, match="process 1 of this machine has no GPU of its own: there is 1") as caught:
        device_named("auto")
    assert caught.value.fix == "torchrun --nproc-per-node 1, or --device cpu"
