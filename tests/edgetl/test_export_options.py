"""``api.export``: its keywords are the options of a recipe."""

from __future__ import annotations

import inspect
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetl import api, pipeline
from edgetl.export_options import note_on_int8
from edgetl.models.checkpoint import Checkpoint
from edgetl.option import options_of
from edgetl.recipe import ExportSection
from edgetl_runtime.errors import UsageError
from edgetl_runtime.machine import CpuFeatures

TRAINED = object.__new__(Checkpoint)
"""Nobody looks into it."""


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[ExportSection]:
    """The options of each `api.export`, which exports nothing."""
    found: list[ExportSection] = []

    def note(checkpoint: Any, calibration: Path, out: Path, options: ExportSection, **named: Any) -> SimpleNamespace:
        found.append(options)
        return SimpleNamespace(failed={})

    monkeypatch.setattr(pipeline, "export_checkpoint", note)
    return found


def test_export_has_a_keyword_for_every_option() -> None:
    keywords = inspect.signature(api.export).parameters
    hints = typing.get_type_hints(api.export)
    for option in options_of(ExportSection):
        assert keywords[option.name].default is None
        kinds = {"tuple": "Sequence", "Path": "Path"}
        assert kinds.get(option.kind.__name__, option.kind.__name__) in str(hints[option.name])


def test_keywords_arrive(exported: list[ExportSection]) -> None:
    given: dict[str, Any] = {
        "targets": ("tflite",),
        "precisions": ("int8",),
        "calibration_samples": 9,
        "quantize": "distill",
        "max_drop": 0.25,
        "tune_data": Path("t"),
        "ranges": "minmax",
        "int8_safe": True,
        "io": "int8",
        "activation": "relu6",
        "no_se": True,
        "distill_epochs": 2,
        "distill_minutes": 0.5,
        "device": "cpu",
        "features": ("pooled",),
        "boxes_in_graph": True,
        "upsample": "graph",
        "labels_in_graph": True,
        "opset": 17,
        "made_for": "x86",
        "batch": 8,
    }
    assert set(given) == {option.name for option in options_of(ExportSection)}
    api.export(TRAINED, calibration="p", out="b", **given)
    api.export(TRAINED, calibration="p", out="b", targets=["tflite"], tune_data="t", distill_minutes=1)
    assert exported[0] == ExportSection(**given)
    assert exported[1] == ExportSection(targets=("tflite",), tune_data=Path("t"), distill_minutes=1.0)


def test_keywords_go_over_options(exported: list[ExportSection]) -> None:
    base = ExportSection(("onnx",), ("fp32",), int8_safe=True)
    api.export(TRAINED, calibration="p", out="b", options=base, precisions=["int8"], int8_safe=False)
    api.export(TRAINED, calibration="p", out="b", options=base)
    api.export(TRAINED, calibration="p", out="b")
    assert exported == [ExportSection(("onnx",), ("int8",), int8_safe=False), base, ExportSection()]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"targets": "onnx"}, "targets must be a list of strings, not 'onnx'"),
        ({"max_drop": 1.0}, "max_drop = 1 makes no sense"),
        ({"calibration_samples": 0}, "calibration_samples = 0 makes no sense"),
        ({"device": "tpu"}, "device = 'tpu' makes no sense"),
        ({"batch": 0}, "batch = 0 makes no sense"),
        ({"batch": "all"}, "batch = 'all' makes no sense"),
        ({"int8_safe": "yes"}, "int8_safe must be true or false"),
    ],
)
def test_what_makes_no_sense_is_said_as_of_a_recipe(
    given: dict[str, Any], says: str, exported: list[ExportSection]
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        api.export(TRAINED, calibration="p", out="b", **given)
    assert "export(): [export]" in str(caught.value)
    assert not exported


def test_it_is_said_where_weights_are_made_for_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["edgetl_export.export"]
    for dot_product, said in ((False, True), (True, False)):
        monkeypatch.setattr(module, "cpu_features", lambda: CpuFeatures("x86", ("avx2",), dot_product))  # noqa: B023
        assert (note_on_int8(ExportSection()) is not None) is said
        assert note_on_int8(ExportSection(int8_safe=True)) is None
        assert note_on_int8(ExportSection(int8_safe=False)) is None
