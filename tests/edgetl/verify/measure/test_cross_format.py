"""Do the int8 files of the formats decide like each other? In the report, and in all its renderings."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.reports.html import render_html
from edgetl.reports.markdown import render_markdown
from edgetl.reports.terminal import render_terminal
from edgetl.verify.measure.cross_format import formats_in_words
from edgetl.verify.report import CrossFormatParity, Parity, Report
from edgetl.verify.verify import VerifyOptions, verify

Model = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
NAMES = ("onnx.int8", "tflite.int8", "openvino.int8")


def twins(*agreements: float) -> tuple[CrossFormatParity, ...]:
    pairs = [(NAMES[0], NAMES[1]), (NAMES[0], NAMES[2]), (NAMES[1], NAMES[2])]
    parities = [Parity(250, agreement, 47.5, 0.1, 0.99) for agreement in agreements]
    return tuple(CrossFormatParity(pair, parity) for pair, parity in zip(pairs, parities, strict=False))


def test_twins_that_never_differ_are_one_line() -> None:
    assert formats_in_words(twins(1.0, 1.0, 1.0)) == [
        "onnx.int8, tflite.int8 and openvino.int8 give the same label on each of 250 images"
    ]
    assert formats_in_words(twins(1.0)) == ["onnx.int8 and tflite.int8 give the same label on each of 250 images"]
    assert formats_in_words(()) == []


def test_otherwise_every_two_have_a_line() -> None:
    assert formats_in_words(twins(1.0, 0.984, 0.984)) == [
        "onnx.int8 and tflite.int8 give the same label on 100.0% of 250 images",
        "onnx.int8 and openvino.int8 give the same label on 98.4% of 250 images",
        "tflite.int8 and openvino.int8 give the same label on 98.4% of 250 images",
    ]


def test_verification_compares_the_int8_files_alone(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    def turned(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.roll(linear(images), 1, axis=1)

    fake_bundle({"onnx.fp32": linear, "onnx.int8": linear, "tflite.int8": linear, "openvino.int8": turned})
    found = verify(bundle_path, samples, linear, VerifyOptions(latency_seconds=0)).twins
    assert [pair.variants for pair in found] == [
        ("onnx.int8", "tflite.int8"),
        ("onnx.int8", "openvino.int8"),
        ("tflite.int8", "openvino.int8"),
    ]
    assert found[0].parity.top1_agreement == 1.0
    assert found[0].parity.n == len(samples)
    assert found[1].parity.top1_agreement == found[2].parity.top1_agreement < 0.5


@pytest.mark.slow
def test_every_rendering_says_so_and_the_json_keeps_it(report: Report) -> None:
    told = replace(report, twins=twins(1.0, 0.984, 0.984))
    for line in formats_in_words(told.twins):
        assert line in " ".join(render_terminal(told).split())
        assert line in html.unescape(render_html(told))
        assert line.replace("_", r"\_") in render_markdown(told).replace("\\", "")
    assert Report.from_json(told.to_json(), where="here").twins == told.twins


def test_reports_from_before_have_none(report: Report) -> None:
    text = report.to_json().replace('"twins": [],', "").replace(',\n "twins": []', "")
    assert "twins" not in text
    assert Report.from_json(text, where="here").twins == ()


@pytest.mark.parametrize("rendering", [render_terminal, render_html, render_markdown])
def test_without_twins_nothing_is_said(rendering: Callable[[Report], str], report: Report) -> None:
    assert "give the same label" not in rendering(report)
