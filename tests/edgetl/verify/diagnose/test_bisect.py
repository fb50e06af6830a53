"""Conversions that fail, narrowed down. The converter is a stand-in here; a real one is in test_inspection.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgetl.verify.diagnose.bisect as bisect_module
from edgetl.verify.diagnose.bisect import bisect_conversion, why_not_converted
from edgetl_export import Captured, Source
from edgetl_export.artifact import Artifact
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import Label, Normalize, Preprocess


class Odd(nn.Module):
    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        return torch.sinh(x) if other is None else torch.sinh(x + other)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.odd, self.flatten = nn.Conv2d(3, 3, 1), Odd(), nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat: torch.Tensor = self.flatten(self.odd(self.before(x), x))
        return flat[:, :5]


class Refusing:
    """Fails where `operators` all occur in the captured graph."""

    def __init__(self, *operators: str) -> None:
        self.operators = operators

    def write(self, captured: Captured, precision: str) -> Artifact:
        names = " ".join(str(node.target) for node in captured.program.graph.nodes)
        if all(f"aten.{operator}." in names for operator in self.operators):
            raise ExportError(f"no rule for {' and '.join(self.operators)} at {precision}")
        return Artifact({".onnx": b""})


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> object:
    def start(*operators: str) -> None:
        monkeypatch.setattr(bisect_module, "open_target", lambda name: Refusing(*operators))

    return start


def source(network: nn.Module, classes: int = 5) -> Source:
    labels = tuple(Label(str(index), str(index)) for index in range(classes))
    return Source("odd", network, labels, Preprocess(8, (8, 8)), Normalize((0.0,) * 3, (1.0,) * 3), "0" * 64)


def test_the_one_layer_is_found_however_deep(refuse) -> None:  # type: ignore[no-untyped-def]
    refuse("sinh")
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ModuleList([Odd()])[0], nn.ReLU())
    network = nn.Sequential(nn.Conv2d(3, 4, 3), inner, nn.Flatten(), nn.Linear(144, 5))
    piece = bisect_conversion(source(network), "onnx")
    assert piece is not None
    assert piece.path == "1.1"
    assert isinstance(piece.module, Odd)
    assert piece.error == "no rule for sinh at fp32"
    assert "ExportError" in piece.trace
    assert [tuple(value.shape) for value in piece.inputs] == [(1, 4, 6, 6)]


def test_a_layer_of_two_inputs_is_fed_with_both(refuse) -> None:  # type: ignore[no-untyped-def]
    refuse("sinh")
    piece = bisect_conversion(source(TwoInputs()), "tflite", "fp16")
    assert piece is not None
    assert piece.path == "odd"
    assert len(piece.inputs) == 2
    assert piece.error == "no rule for sinh at fp16"


def test_the_shortest_stretch_is_found_where_no_layer_fails_alone(refuse) -> None:  # type: ignore[no-untyped-def]
    refuse("sigmoid", "tanh")
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5)
    )
    piece = bisect_conversion(source(network), "onnx")
    assert piece is not None
    assert piece.path == "[2:5]"
    assert [type(module).__name__ for module in piece.module] == ["Sigmoid", "Conv2d", "Tanh"]  # type: ignore[arg-type, union-attr]
    assert tuple(piece.inputs[0].shape) == (1, 4, 6, 6)


def test_what_is_converted_has_no_piece(refuse) -> None:  # type: ignore[no-untyped-def]
    refuse("sinh")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    assert bisect_conversion(source(network), "onnx") is None
    assert why_not_converted(nn.ReLU(), [torch.zeros(1, 7)], "onnx") is None
