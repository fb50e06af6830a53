"""Networks that no export can mend are refused before anything is made of them, with the way out."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgetl_export import ExportOptions, export
from edgetl_export.soundness import check_decides, check_finite, check_sound
from edgetl_runtime.errors import CheckpointError, ExportError
from edgetl_runtime.manifest import Label
from tests.zoo import Trained


class Headed(nn.Module):
    """A small network that ends in one logit, of the shapes that people give it."""

    def __init__(self, *, sigmoid: bool = False, squeezed: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 1)
        self._sigmoid, self._squeezed = sigmoid, squeezed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.head(self.body(x))
        logit = torch.sigmoid(logit) if self._sigmoid else logit
        return logit.squeeze(1) if self._squeezed else logit


@pytest.mark.parametrize(
    "module",
    [Headed(), Headed(sigmoid=True), Headed(squeezed=True), Headed(sigmoid=True, squeezed=True)],
    ids=["logit", "probability", "(n,)", "probability (n,)"],
)
def test_one_output_is_refused_before_anything_is_captured(
    module: nn.Module, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["edgetl_export.export"], "capture", None)
    source = replace(trained.source, module=module, labels=(Label("cat", "cat"),))
    with pytest.raises(ExportError, match=r"gives 1 logit, of which every image is 100 %") as raised:
        export(source, trained.samples, trained.calibration[:4], tmp_path, ExportOptions(("onnx",), ("fp32",)))
    assert "torch.cat([torch.zeros_like(w), w])" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [Headed(), Headed(sigmoid=True)])
def test_two_labels_for_one_output_are_refused_too(module: nn.Module, trained: Trained, tmp_path: Path) -> None:
    source = replace(trained.source, module=module, labels=(Label("no", "no"), Label("yes", "yes")))
    with pytest.raises(ExportError, match=r"gives \[1, 1\] for one image; its labels need \[1, 2\]"):
        export(source, trained.samples, trained.calibration[:4], tmp_path, ExportOptions(("onnx",), ("fp32",)))


def test_the_way_out_gives_what_the_sigmoid_gave() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(5, 1), nn.Linear(5, 2)
    with torch.no_grad():
        for name, w in one.named_parameters():
            two.get_parameter(name).copy_(torch.cat([torch.zeros_like(w), w]))
    x = torch.randn(9, 5)
    torch.testing.assert_close(two(x).softmax(1)[:, 1:], one(x).sigmoid())


@pytest.mark.parametrize("logits", [0, 1])
def test_fewer_than_two_logits_decide_nothing(logits: int) -> None:
    with pytest.raises(CheckpointError, match=f"w.pth gives {logits} logit"):
        check_decides(logits, "w.pth")
    check_decides(2, "w.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["stem.0.weight", "head.bias", "stem.1.running_var"])
def test_weights_that_are_no_numbers_are_refused(value: float, place: str, trained: Trained) -> None:
    from tests.zoo import Bottlenecks

    network = Bottlenecks(4)
    values = dict((*network.named_parameters(), *network.named_buffers()))[place].data
    values.view(-1)[0] = value
    with pytest.raises(ExportError, match=rf"{place} is not finite: 1 of its \d+ values"):
        check_sound(replace(trained.source, module=network))


def test_masks_may_be_infinite_and_counters_are_no_floats(trained: Trained) -> None:
    masked = Headed()
    masked.register_buffer("mask", torch.full((4,), -math.inf))
    check_sound(replace(trained.source, module=masked))
    check_finite({"steps": torch.tensor([2**40])}, "w.pth")
